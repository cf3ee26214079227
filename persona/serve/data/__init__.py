"""The data of users over HTTP: records, all that is held, feedback, erasure."""
