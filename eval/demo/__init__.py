"""The demonstration of `persona demo`: a generated world, every method, and a page that shows what it wins."""
