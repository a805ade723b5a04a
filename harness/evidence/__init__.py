"""Release evidence: a policy's verdict, the bundle that carries every raw number behind it, and its verification."""
