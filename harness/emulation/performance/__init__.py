"""How long a network takes on a board that is not there: models, each with its known error."""
