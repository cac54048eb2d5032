//! Logs and metrics: every name is listed here once.
