"""The shipped default: a trained network, its held-out samples, a job and a lab that need nothing else."""
