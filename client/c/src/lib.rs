//! C ABI of the Windlass client.
