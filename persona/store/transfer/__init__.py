"""All that a store holds of users, out to a file and into another store."""
