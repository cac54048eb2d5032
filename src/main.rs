//! The one binary of the product.

fn main() {}
