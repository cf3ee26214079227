"""The store of users' histories and of all that is derived from them."""
