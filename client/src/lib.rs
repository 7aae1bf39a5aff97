//! The Windlass client: push and pull of model parameters.
