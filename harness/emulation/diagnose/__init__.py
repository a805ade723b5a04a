"""Where a board departs from the reference: which layer first, by how many steps, and by which mistake."""
