//! Makes cargo see a new migration: the macro that embeds them is told of changed files only.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
