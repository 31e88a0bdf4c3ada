"""What lies in a store, as a whole: listed, copied, deleted, cleaned up."""
