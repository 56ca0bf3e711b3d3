//! What the arguments ask for. Pure: the environment and the arguments come in as values.

use std::time::Duration;

/// The modes, as told to someone who asked for one that does not exist.
pub(crate) const USAGE: &str = "usage: hello [serve [--port N] | udp [--port N] | ignore-term [--port N] | \
                                sick [--port N] | exit CODE [MESSAGE] | sleep SECONDS | touch FILE | env NAME | cat | \
                                flood | chatter MILLISECONDS]";

const DEFAULT_PORT: u16 = 80;

/// One run of the program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Answer HTTP until told to stop; then finish and exit 0.
    Serve { port: u16 },
    /// Answer every UDP packet until told to stop.
    Udp { port: u16 },
    /// Answer HTTP and take no notice of SIGTERM, as a bad app would.
    IgnoreTerm { port: u16 },
    /// Answer every request with 500, as an app without its database would.
    Sick { port: u16 },
    /// Print the message on stderr and exit with the code.
    Exit { code: i32, message: Option<String> },
    /// Exit 0 after the time.
    Sleep { time: Duration },
    /// Create a file, which shows that a volume is there and writable.
    Touch { file: String },
    /// Print one environment variable.
    Env { name: String },
    /// Write to stdout what stdin says, and end with it.
    Cat,
    /// Write lines to stdout as fast as they are taken.
    Flood,
    /// Write a line with its number and its time every so often.
    Chatter { every: Duration },
}

/// Reads the arguments; `port` is the value of `PORT`, which `--port` overrides.
pub(crate) fn parse(args: &[String], port: Option<&str>) -> Result<Mode, String> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["serve"] => Ok(Mode::Serve { port: default_port(port)? }),
        ["serve", "--port", n] => Ok(Mode::Serve { port: number("--port", n)? }),
        ["udp"] => Ok(Mode::Udp { port: default_port(port)? }),
        ["udp", "--port", n] => Ok(Mode::Udp { port: number("--port", n)? }),
        ["ignore-term"] => Ok(Mode::IgnoreTerm { port: default_port(port)? }),
        ["ignore-term", "--port", n] => Ok(Mode::IgnoreTerm { port: number("--port", n)? }),
        ["sick"] => Ok(Mode::Sick { port: default_port(port)? }),
        ["sick", "--port", n] => Ok(Mode::Sick { port: number("--port", n)? }),
        ["exit", code] => Ok(Mode::Exit { code: number("exit", code)?, message: None }),
        ["exit", code, message] => {
            Ok(Mode::Exit { code: number("exit", code)?, message: Some((*message).to_string()) })
        }
        ["sleep", seconds] => Ok(Mode::Sleep { time: Duration::from_secs(number("sleep", seconds)?) }),
        ["touch", file] => Ok(Mode::Touch { file: (*file).to_string() }),
        ["env", name] => Ok(Mode::Env { name: (*name).to_string() }),
        ["cat"] => Ok(Mode::Cat),
        ["flood"] => Ok(Mode::Flood),
        ["chatter", millis] => Ok(Mode::Chatter { every: Duration::from_millis(number("chatter", millis)?) }),
        [..] => Err(format!("cannot read the arguments: {}", words.join(" "))),
    }
}

fn default_port(port: Option<&str>) -> Result<u16, String> {
    port.map_or(Ok(DEFAULT_PORT), |value| number("PORT", value))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name} needs a number in range, not {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, port: Option<&str>) -> Result<Mode, String> {
        let args: Vec<String> = line.split_whitespace().map(String::from).collect();
        parse(&args, port)
    }

    #[test]
    fn the_flag_wins_over_the_environment() {
        assert_eq!(read("", None), Ok(Mode::Serve { port: 80 }));
        assert_eq!(read("serve", Some("8000")), Ok(Mode::Serve { port: 8000 }));
        assert_eq!(read("serve --port 9000", Some("8000")), Ok(Mode::Serve { port: 9000 }));
        assert_eq!(read("ignore-term", Some("8000")), Ok(Mode::IgnoreTerm { port: 8000 }));
        assert_eq!(read("sick", Some("8000")), Ok(Mode::Sick { port: 8000 }));
        assert_eq!(read("sick --port 9000", None), Ok(Mode::Sick { port: 9000 }));
    }

    #[test]
    fn the_small_modes() {
        assert_eq!(read("exit 7", None), Ok(Mode::Exit { code: 7, message: None }));
        assert_eq!(read("exit 7 broken", None), Ok(Mode::Exit { code: 7, message: Some("broken".into()) }));
        assert_eq!(read("sleep 3", None), Ok(Mode::Sleep { time: Duration::from_secs(3) }));
        assert_eq!(read("touch /data/init", None), Ok(Mode::Touch { file: "/data/init".into() }));
        assert_eq!(read("env HOME", None), Ok(Mode::Env { name: "HOME".into() }));
        assert_eq!(read("cat", None), Ok(Mode::Cat));
        assert_eq!(read("flood", None), Ok(Mode::Flood));
        assert_eq!(read("chatter 20", None), Ok(Mode::Chatter { every: Duration::from_millis(20) }));
        assert_eq!(read("udp --port 53", None), Ok(Mode::Udp { port: 53 }));
    }

    #[test]
    fn what_it_cannot_read_it_names() {
        assert!(read("serve --port 70000", None).unwrap_err().contains("70000"));
        assert!(read("serve", Some("http")).unwrap_err().contains("PORT"));
        assert!(read("dance", None).unwrap_err().contains("dance"));
        assert!(read("exit", None).is_err());
    }
}
