"""From encoded pairs to ranked scores, the same for the server and the offline API."""
