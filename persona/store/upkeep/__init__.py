"""What keeps a store in order: user ids that are near a mistyped one."""
