"""How a store reaches its database: URLs, SQLite files, connections, and what failures mean."""
