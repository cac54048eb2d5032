//! Keys: the ring that seals secrets, and the key that never rotates.

pub mod answers;
pub mod key_ring;
pub mod mac;
pub mod password;
pub mod sealed;
