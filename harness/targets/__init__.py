"""How to reach a board: the lab file, the connection to its agent, and what is believed of the answers."""
