"""How to reach a board: the lab file, the connection to its agent, and what is believed of the answers."""

import os

# gRPC writes what it notices (a closed connection, a failed handshake) to stderr, in the middle of progress bars. Each
# of these comes back as an error of ours; whoever wants gRPC's own words sets the variable. It is read at its import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
