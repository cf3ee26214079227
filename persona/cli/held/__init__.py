"""Commands on what the store holds of users."""
