//! The one integration binary: each further one would be another 100 MB to link.
