//! A tenant: a customer of the installation.

use super::channel::text_enum;

text_enum! {
    /// Whether a tenant may do anything.
    TenantStatus {
        /// It may.
        Active = "active",
        /// An operator stopped it: nothing of it begins, nobody of it gets in.
        Suspended = "suspended",
        /// It goes to another cell.
        Moving = "moving",
        /// It is over.
        Closed = "closed",
    }
}
