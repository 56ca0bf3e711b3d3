//! Tiny images: busybox, and whatever makes an image another one.

/// Busybox and its usual names.
pub(crate) fn tiny_image() -> Vec<u8> {
    image_with(&[])
}

/// The same, with a file of its own: another image to every store.
pub(crate) fn image_with(data: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    for dir in ["bin", "tmp", "etc", "proc", "sys", "dev", "data"] {
        entry(&mut tar, &format!("{dir}/"), b'5', "", &[]);
    }
    entry(&mut tar, "bin/busybox", b'0', "", &busybox);
    for name in ["sh", "sleep", "echo", "cat", "httpd", "mkdir", "true", "false", "ls", "touch", "nc"] {
        entry(&mut tar, &format!("bin/{name}"), b'2', "busybox", &[]);
    }
    if !data.is_empty() {
        entry(&mut tar, "data/own", b'0', "", data);
    }
    tar.extend_from_slice(&[0; 1024]);
    tar
}

/// Bytes that no compression makes smaller, the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

/// One ustar entry.
fn entry(tar: &mut Vec<u8>, name: &str, kind: u8, link: &str, data: &[u8]) {
    let mut head = [0u8; 512];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", data.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(157, link);
    put(257, "ustar\x0000");
    head[156] = kind;
    let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&head);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}
