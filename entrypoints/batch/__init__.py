"""`engine run-batch`: a file of calls, answered row by row."""
