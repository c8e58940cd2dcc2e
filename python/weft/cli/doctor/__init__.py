"""`weft doctor`: what this machine has for Weft, what it lacks, what that means and what to do."""
