"""Files of users, read with the line of every mistake and written whole or not at all."""
