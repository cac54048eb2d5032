//! The only file that reads the environment.
