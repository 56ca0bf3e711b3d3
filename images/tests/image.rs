//! A whole image, of a root file system that is as small as one can be: busybox, and scripts in the place of what Debian and
//! Bramble bring. What is asked is asked of the tools that others use: mtools, debugfs, pvck, vgck, thin_dump.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]
#![allow(clippy::disallowed_methods, reason = "tests ask other programs")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bramble_images::artefacts;
use bramble_images::layout::{CHUNK, MIB, Span};
use bramble_images::{Error, Image, Programs, Recipe, build, recipe, rootfs};

const KERNEL: &str = "6.1-arm64";

fn run(program: &str, args: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let out = Command::new(program).args(args).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {said}{}", String::from_utf8_lossy(&out.stderr));
    said
}

fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

struct Site {
    dir: tempfile::TempDir,
    recipe: Recipe,
    programs: Programs,
}

impl Site {
    /// Everything that goes into an image.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = recipe("virt").unwrap();
        recipe.sizes.root = 256;
        recipe.sizes.root_free = 4;
        recipe.sizes.boot = 64;
        recipe.sizes.config = 32;
        recipe.sizes.pool_metadata = 4;
        recipe.sizes.state = 128;
        recipe.sizes.state_free = 64;
        recipe.sizes.apps = 128;
        recipe.initramfs.files = vec!["usr/sbin/lvm".into()];
        recipe.initramfs.modules = vec!["dm_thin_pool".into(), "vfat".into()];
        let overlay = dir.path().join("overlay");
        script(&overlay.join("usr/lib/extra"), "true");
        recipe.overlay = vec![overlay];
        let of = |name: &str| dir.path().join("programs").join(name);
        // What `install --image` is to do: files of the device into root, and its state to where it is moved out from.
        let install = "test \"$*\" = \"install --image --root $4 --agent $6\" || exit 1\n\
                       mkdir -p \"$4/var/lib/bramble/bin\" \"$4/var/lib/bramble-apps\"\n\
                       cp \"$6\" \"$4/var/lib/bramble/bin/current\"\ndate +%N >\"$4/var/log/install\"";
        script(&of("bramble-bootstrap"), install);
        script(&of("bramble-agent"), "echo 1.0.0");
        script(&of("bramble-bootguard"), "true");
        let programs = Programs {
            agent: of("bramble-agent"),
            bootstrap: of("bramble-bootstrap"),
            bootguard: of("bramble-bootguard"),
        };
        let site = Site { dir, recipe, programs };
        site.debian();
        site
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// The tarball, under the name it would have had from mmdebstrap.
    fn debian(&self) {
        let root = self.dir.path().join("debian");
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
        for dir in ["bin", "proc", "dev", "tmp", "var/tmp", "var/log/apt", "var/lib/dpkg", "etc", "boot", "usr/sbin"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy(busybox.expect("busybox-static is installed for tests"), root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        let update =
            format!("test \"$*\" = '-o /boot/initrd.img-{KERNEL} {KERNEL}' && echo \"made at $SOURCE_DATE_EPOCH\" >$2");
        script(&root.join("usr/sbin/mkinitramfs"), &update);
        script(&root.join("usr/sbin/systemd-sysusers"), "true");
        script(&root.join("usr/sbin/ldconfig"), "true");
        script(&root.join("usr/sbin/lsinitramfs"), "echo usr/sbin/lvm; echo usr/lib/modules/x/dm-thin-pool.ko.xz");
        let modules = root.join("usr/lib/modules").join(KERNEL);
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("modules.builtin"), "kernel/fs/fat/vfat.ko\n").unwrap();
        fs::write(root.join(format!("boot/vmlinuz-{KERNEL}")), "the kernel").unwrap();
        fs::write(root.join("etc/shadow"), "root:*:1:0:99999:7:::\n").unwrap();
        fs::write(root.join("var/log/apt/term.log"), "x").unwrap();
        let status = "Package: busybox\nStatus: install ok installed\nVersion: 1\nArchitecture: arm64\n";
        fs::write(root.join("var/lib/dpkg/status"), status).unwrap();
        fs::create_dir_all(self.cache()).unwrap();
        let tarball = self.cache().join(format!("rootfs-{}.tar", &rootfs::digest(&self.recipe)[..16]));
        run("tar", &["-C", root.to_str().unwrap(), "-cf", tarball.to_str().unwrap(), "."]);
    }

    fn build(&self, out: &str) -> Result<Image, Error> {
        build(&self.recipe, &self.programs, &self.cache(), &self.dir.path().join(out))
    }

    /// A part of a card, as a file that tools take.
    fn part(&self, image: &Image, span: Span, name: &str) -> String {
        let file = self.dir.path().join(name).to_str().unwrap().to_owned();
        let (input, output) = (format!("if={}", image.disk.display()), format!("of={file}"));
        let (skip, count) = (format!("skip={}", span.start / MIB), format!("count={}", span.size / MIB));
        run("dd", &[&input, &output, "bs=1M", &skip, &count, "conv=sparse", "status=none"]);
        file
    }
}

#[test]
fn an_image_is_what_its_recipe_says_and_the_same_every_time() {
    let site = Site::new();
    let image = site.build("one").unwrap();
    boot_slots_are_whole(&site, &image);
    root_is_mapped_in_the_pool(&site, &image);
    the_state_is_apart(&site, &image);
    lvm_takes_the_group(&site, &image);

    let again = site.build("one").unwrap();
    assert_eq!(again, image, "found, not made again");
    let other = site.build("two").unwrap();
    assert_eq!(other.facts, image.facts);
    let same = Command::new("cmp").args([&image.disk, &other.disk]).output().unwrap();
    assert!(same.status.success(), "made twice: {}", String::from_utf8_lossy(&same.stdout));

    artefacts_check_each_other(&site, &image);
}

fn boot_slots_are_whole(site: &Site, image: &Image) {
    let layout = &image.facts.layout;
    let read = |part: &str, file: &str| run("mtype", &["-i", part, &format!("::{file}")]);
    let config = site.part(image, layout.config, "p1");
    assert!(read(&config, "autoboot.txt").contains("tryboot_a_b=1\nboot_partition=2\n"));
    assert_eq!(read(&config, "config.txt"), "");
    assert!(read(&config, "bramble.toml").contains("coordinator"));
    for (letter, span) in ["a", "b"].into_iter().zip(layout.boot) {
        let slot = site.part(image, span, letter);
        assert!(read(&slot, "cmdline.txt").contains(&format!("bramble.slot={letter}")), "{letter}");
        assert!(read(&slot, "config.txt").contains("kernel=vmlinuz\ninitramfs initrd.img followkernel\n"));
        assert_eq!(read(&slot, "vmlinuz"), "the kernel");
        assert_eq!(read(&slot, "initrd.img"), format!("made at {}\n", image.facts.epoch_s));
    }
}

/// Puts root together as the kernel would: by the pool's metadata, from the pool's blocks.
fn root_is_mapped_in_the_pool(site: &Site, image: &Image) {
    let layout = &image.facts.layout;
    let metadata = site.part(image, layout.pool_metadata, "tmeta");
    let dump = run("thin_dump", &[&metadata]);
    let number = |line: &str, field: &str| -> u64 {
        line.split(&format!("{field}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
    };
    let pool = fs::read(&image.disk).unwrap();
    let mut root = vec![0; usize::try_from(layout.root).unwrap()];
    for line in dump.lines().filter(|line| line.contains("_mapping ")) {
        let (from, to, count) = if line.contains("range_mapping") {
            (number(line, "data_begin"), number(line, "origin_begin"), number(line, "length"))
        } else {
            (number(line, "data_block"), number(line, "origin_block"), 1)
        };
        let at = |byte: u64| usize::try_from(byte).unwrap();
        let (from, to, size) = (at(layout.pool.start + from * CHUNK), at(to * CHUNK), at(count * CHUNK));
        root[to..to + size].copy_from_slice(&pool[from..from + size]);
    }
    let file = site.dir.path().join("root.ext4");
    fs::write(&file, root).unwrap();
    let file = file.to_str().unwrap();
    run("e2fsck", &["-f", "-n", file]);
    let ask = |what: &str| run("debugfs", &["-R", what, file]);
    assert_eq!(ask("cat /etc/shadow"), "root:*:1:0:99999:7:::\n");
    assert!(ask("stat /usr/lib/extra").contains("Mode:  0755"));
    let times = ask("stat /etc/shadow");
    let at_epoch = format!("ctime: 0x{:08x}:00000000", image.facts.epoch_s);
    assert!(times.contains(&at_epoch), "{times}");
    for gone in ["/var/log/install", "/var/log/apt/term.log", "/var/lib/bramble/bin"] {
        assert!(!ask(&format!("stat {gone}")).contains("Inode:"), "{gone} is on root");
    }
    assert!(ask("stat /var/lib/bramble").contains("Mode:  0700"));
}

fn the_state_is_apart(site: &Site, image: &Image) {
    let state = site.part(image, image.facts.layout.state, "state.ext4");
    run("e2fsck", &["-f", "-n", &state]);
    assert_eq!(run("debugfs", &["-R", "cat /bin/current", &state]), "#!/bin/sh\necho 1.0.0\n");
    assert!(run("debugfs", &["-R", "stat /", &state]).contains("Mode:  0700"));
}

/// On a loop device, where this machine has one; without activating anything.
fn lvm_takes_the_group(site: &Site, image: &Image) {
    let pv = site.part(image, image.facts.layout.pv, "pv");
    let headers = run("pvck", &["--dump", "headers", &pv]);
    assert!(headers.contains("pv_header_extension") && !headers.contains("should be"), "{headers}");
    let Ok(found) = Command::new("losetup").args(["--read-only", "--find", "--show", &pv]).output() else { return };
    if !found.status.success() {
        eprintln!("no loop device: {}", String::from_utf8_lossy(&found.stderr));
        return;
    }
    let device = Loop(String::from_utf8(found.stdout).unwrap().trim().into());
    let config = format!(
        "devices {{ filter=[\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0 }} global {{ activation=0 }} backup {{ backup=0 archive=0 }}",
        device.0
    );
    let lvm = |args: &[&str]| run("lvm", &[args, &["--config", &config]].concat());
    lvm(&["vgck", "vg0"]);
    let listed = lvm(&["lvs", "-a", "--noheadings", "--separator", " ", "-o", "lv_name,lv_attr,pool_lv", "vg0"]);
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let want = ["apps", "[lvol0_pmspare]", "pool", "[pool_tdata]", "[pool_tmeta]", "root", "state"];
    for name in want {
        assert!(names.contains(&name), "{name} is not in {listed}");
    }
}

struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0]);
    }
}

fn artefacts_check_each_other(site: &Site, image: &Image) {
    let out = site.dir.path().join("handed out");
    let written = artefacts::write(image, "https://images.example/", &out).unwrap();
    let sums = written.sha256.file_name().unwrap().to_str().unwrap();
    let checked = Command::new("sha256sum").args(["-c", sums]).current_dir(&out).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let list = fs::read_to_string(&written.os_list).unwrap();
    assert_eq!(artefacts::os_list_problems(&list), Vec::<String>::new());
    assert!(fs::read_to_string(&written.sbom).unwrap().contains("pkg:deb/debian/busybox@1?arch=arm64"));
    // Writing by the map gives a card on which everything that is read is right, whatever was on it before.
    let card = site.dir.path().join("card");
    let unpacked = Command::new("xz").args(["-dc"]).arg(&written.packed).output().unwrap().stdout;
    assert_eq!(unpacked.len() as u64, image.facts.layout.disk);
    let mut held = vec![0xa5_u8; unpacked.len()];
    let map = fs::read_to_string(&written.bmap).unwrap();
    for range in map.lines().filter(|line| line.contains("<Range")) {
        let numbers = range.split("> ").nth(1).unwrap().split(' ').next().unwrap();
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let bytes = first * 4096..(last + 1) * 4096;
        held[bytes.clone()].copy_from_slice(&unpacked[bytes]);
    }
    fs::write(&card, held).unwrap();
    let written = Image { disk: card, facts: image.facts.clone() };
    boot_slots_are_whole(site, &written);
    root_is_mapped_in_the_pool(site, &written);
    the_state_is_apart(site, &written);
}

#[test]
fn an_initramfs_that_lacks_something_makes_no_image() {
    let mut site = Site::new();
    site.recipe.initramfs.modules.push("i6300esb".into());
    let err = site.build("out").unwrap_err().to_string();
    assert!(err.contains("the initramfs of 6.1-arm64 lacks module i6300esb"), "{err}");
    let left: Vec<_> = fs::read_dir(site.dir.path().join("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".lock")), "{left:?}");
}

#[test]
fn an_account_with_a_password_makes_no_image() {
    let site = Site::new();
    script(&site.recipe.overlay[0].join("usr/lib/extra"), "true");
    fs::create_dir_all(site.recipe.overlay[0].join("etc")).unwrap();
    fs::write(site.recipe.overlay[0].join("etc/shadow"), "root::1:::\n").unwrap();
    let err = site.build("out").unwrap_err().to_string();
    assert!(err.contains("root may log in"), "{err}");
}
