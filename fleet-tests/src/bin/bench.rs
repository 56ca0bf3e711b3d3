//! `cargo xtask bench`: measures what ships, beside what it is compared with.

fn main() -> anyhow::Result<()> {
    bramble_fleet_tests::bench::main(std::env::args().skip(1))
}
