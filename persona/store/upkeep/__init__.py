"""What keeps a store in order: deletions, expiry, exports that were made, ids near a mistyped one."""
