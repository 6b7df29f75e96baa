//! Real `go` commands: the same exit status and output as with the built-in cache.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use serde_json::Value;

use crate::program::{PROGRAM, Setup};

/// The tool chains to test with: of those that `cargo xtask test` has fetched the newest, with `WINDLASS_EVERY_GO=1` all;
/// else that on the `PATH`. (The tests of the `windlass` program go through all versions each time.)
fn tool_chains() -> Vec<PathBuf> {
    let fetched = ["WINDLASS_GO_1_24", "WINDLASS_GO_1_26", "WINDLASS_GO_1_27"].into_iter().filter_map(|name| {
        let folder = PathBuf::from(std::env::var_os(name).filter(|value| !value.is_empty())?);
        let places = ["go/bin/go", "bin/go", "go"].map(|place| folder.join(place));
        let go = places.into_iter().find(|go| go.is_file());
        Some(go.unwrap_or_else(|| panic!("{name} is {}, where no go is", folder.display())))
    });
    let mut all: Vec<PathBuf> = fetched.collect();
    if std::env::var_os("WINDLASS_EVERY_GO").is_none() {
        all.drain(..all.len().saturating_sub(1));
    }
    if all.is_empty() {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        all.extend(std::env::split_paths(&paths).map(|folder| folder.join("go")).find(|go| go.is_file()));
    }
    assert!(!all.is_empty(), "there is no go on the PATH: install one, or run `cargo xtask test`, which fetches three");
    all
}

/// A module, a tool chain, and folders of their own.
struct World {
    folder: tempfile::TempDir,
    go: PathBuf,
}

impl World {
    fn new(go: &Path) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), go: go.to_owned() };
        let write = |name: &str, text: &str| {
            let path = world.module().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("go.mod", "module example.test/hello\n\ngo 1.24\n");
        write("a/a.go", "package a\n\nimport \"strings\"\n\nfunc Up(s string) string { return strings.ToUpper(s) }\n");
        write(
            "b/b.go",
            "package b\n\nimport \"example.test/hello/a\"\n\nfunc Hi(s string) string { return \"hi \" + a.Up(s) }\n",
        );
        write(
            "b/b_test.go",
            "package b\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestHi(t *testing.T) {\n\
             \tif _, err := os.ReadFile(\"b.go\"); err != nil {\n\t\tt.Fatal(err)\n\t}\n\
             \tif Hi(\"x\") != \"hi X\" {\n\t\tt.Fatal(Hi(\"x\"))\n\t}\n}\n",
        );
        write("c/c.go", "package main\n\nimport \"example.test/hello/b\"\n\nfunc main() { println(b.Hi(\"you\")) }\n");
        write("bad/bad.go", "package bad\n\nfunc F() int { return \"no\" }\n");
        world
    }

    fn module(&self) -> PathBuf {
        self.folder.path().join("hello")
    }

    /// Runs `go`, with the built-in cache or with a program.
    fn go(&self, program: Option<&str>, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.go);
        command.args(arguments).current_dir(self.module());
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.folder.path()).env("TMPDIR", self.folder.path());
        for (name, value) in [("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("GOFLAGS", ""), ("CGO_ENABLED", "0")] {
            command.env(name, value);
        }
        command.env("GOTELEMETRY", "off").env("GOENV", "off");
        let cache = if program.is_some() { "empty" } else { "builtin" };
        command.env("GOCACHE", self.folder.path().join(cache));
        if let Some(program) = program {
            command.env("GOCACHEPROG", program);
        }
        command.output().unwrap()
    }
}

/// Exit status and standard output.
type Told = (Option<i32>, String);

/// What is the same in every run: times are not.
fn told(output: &Output) -> Told {
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.lines().map(|line| {
        let words = line.split('\t').map(|word| {
            let seconds = word.strip_suffix('s').is_some_and(|number| number.parse::<f64>().is_ok());
            if seconds { "TIME" } else { word }
        });
        words.collect::<Vec<_>>().join("\t")
    });
    (output.status.code(), words.collect::<Vec<_>>().join("\n"))
}

/// The last two are dear, or fail.
const STEPS: [&[&str]; 12] = [
    &["build", "./a", "./b", "./c"],
    &["build", "./a", "./b", "./c"],
    &["vet", "./a", "./b", "./c"],
    &["test", "./b"],
    &["test", "./b"],
    &["clean", "-testcache"],
    &["test", "./b"],
    &["test", "./b"],
    &["list", "-export", "-f", "{{.ImportPath}} {{if .Export}}has export data{{end}}", "./..."],
    &["list", "-test", "-f", "{{.ImportPath}} {{len .GoFiles}}", "./b"],
    &["build", "-a", "-o", "/dev/null", "./c"],
    &["build", "./bad"],
];

/// Everything in it can be cached. Programs are linked each time: `go` never stores them in a cache program.
const LIBRARIES: &[&str] = &["build", "./a", "./b"];

/// Building, testing and listing: enough where a full round was made before.
const FEW: [usize; 4] = [0, 3, 8, 9];

fn same_as_built_in(world: &World, built_in: &[Told], program: &str, steps: &[usize], why: &str) {
    for (step, expected) in steps.iter().map(|step| (STEPS[*step], &built_in[*step])) {
        let output = world.go(Some(program), step);
        assert_eq!(&told(&output), expected, "{why}: go {step:?}: {}", String::from_utf8_lossy(&output.stderr));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("windlass") && !stderr.contains("GOCACHEPROG"), "{why}: {stderr}");
    }
}

/// What the steps say with the built-in cache, found out once.
fn built_in(go: &Path) -> Vec<Told> {
    static KNOWN: Mutex<BTreeMap<PathBuf, Vec<Told>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    let find_out = || {
        let world = World::new(go);
        STEPS.iter().map(|step| told(&world.go(None, step))).collect()
    };
    known.entry(go.to_owned()).or_insert_with(find_out).clone()
}

fn last_run(setup: &Setup) -> Value {
    let (stats, _) = setup.ask(&["stats"]);
    stats["runs"].as_array().unwrap().last().unwrap().clone()
}

#[test]
fn commands_say_the_same_as_with_the_built_in_cache() {
    for go in tool_chains() {
        let (world, setup) = (World::new(&go), Setup::new());
        let built_in = built_in(&go);
        assert!(built_in[4].1.contains("(cached)") && !built_in[6].1.contains("(cached)"), "{built_in:?}");
        assert_eq!((built_in[0].0, built_in[11].0), (Some(0), Some(1)), "{built_in:?}");
        let program = format!("{PROGRAM} --dir {} --spare-dir {}", setup.dir().display(), setup.spare().display());
        let all: Vec<usize> = (0..STEPS.len()).collect();
        same_as_built_in(&world, &built_in, &program, &all, "an empty folder");
        setup.verify();
        same_as_built_in(&world, &built_in, &program, &[0, 1, 2, 5, 6, 7, 8, 9], "a full folder");
        world.go(Some(&program), LIBRARIES);
        let run = last_run(&setup);
        assert_eq!((run["misses"].as_u64(), run["end"].as_str()), (Some(0), Some("closed")), "{run}");
        // Every output damaged, each of its right size.
        for shard in fs::read_dir(setup.dir().join("o")).unwrap() {
            for output in fs::read_dir(shard.unwrap().path()).unwrap() {
                let path = output.unwrap().path();
                let mut bytes = fs::read(&path).unwrap();
                if let Some(byte) = bytes.last_mut() {
                    *byte ^= 1;
                    fs::write(&path, bytes).unwrap();
                }
            }
        }
        // Only the first test result is not there any more, so that one is not cached.
        same_as_built_in(&world, &built_in, &program, &[0, 2, 5, 6, 7, 8, 9], "every output damaged");
        // What no command asked for again is still damaged: nothing but results of earlier test runs, which differ from
        // the last by the time that they took.
        let (found, _) = setup.ask(&["verify"]);
        for damage in found["damages"].as_array().unwrap() {
            let bytes = fs::read(damage["path"].as_str().unwrap()).unwrap();
            assert!(bytes.starts_with(b"ok") || bytes.windows(5).any(|line| line == b"PASS\n"), "{damage}");
        }
    }
}

#[test]
fn another_machine_builds_from_the_remote() {
    for go in tool_chains() {
        let (world, setup) = (World::new(&go), Setup::new());
        let built_in = built_in(&go);
        let remote = setup.folder.path().join("remote");
        fs::create_dir(&remote).unwrap();
        let program = format!(
            "{PROGRAM} --dir {} --spare-dir {} --remote file://{}",
            setup.dir().display(),
            setup.spare().display(),
            remote.display()
        );
        same_as_built_in(&world, &built_in, &program, &FEW, "an empty remote");
        fs::remove_dir_all(setup.dir()).unwrap();
        let output = world.go(Some(&program), LIBRARIES);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let run = last_run(&setup);
        // What was fetched ahead is local by the time it is asked for.
        let hits = run["local_hits"].as_u64().unwrap() + run["remote_hits"].as_u64().unwrap();
        assert_eq!(run["misses"].as_u64(), Some(0), "{run}");
        assert!(hits > 50 && run["remote"]["outputs_read"].as_u64().unwrap() > 50, "{run}");
        fs::remove_dir_all(setup.dir()).unwrap();
        // The test result comes from the remote too.
        same_as_built_in(&world, &built_in, &program, &[8, 9], "a full remote and no folder");
        let output = world.go(Some(&program), STEPS[4]);
        assert!(told(&output).1.contains("(cached)"), "{output:?}");
        setup.verify();
    }
}

#[test]
fn eight_at_once_with_a_tiny_limit() {
    let go = tool_chains().remove(0);
    let setup = Setup::new();
    let program = format!(
        "{PROGRAM} --dir {} --spare-dir {} --max-size 1MiB --max-age 0s --keep-recent 0s --gc-interval 0s",
        setup.dir().display(),
        setup.spare().display()
    );
    let world = World::new(&go);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let output = world.go(Some(&program), &["build", "-o", "/dev/null", "./c"]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            });
        }
    });
    setup.verify();
}
