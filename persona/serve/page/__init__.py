"""The page for people: a chat with and without what is known, and all that is held, to be changed and erased."""
