//! Small Go modules to build.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What a module under test holds: a package with a test that reads a file, an embedded file, a program.
const HELLO: [(&str, &str); 8] = [
    ("go.mod", "module example.test/hello\n\ngo 1.24\n"),
    (
        "a/a.go",
        "// Package a shouts.\npackage a\n\nimport \"strings\"\n\n// Up shouts.\nfunc Up(s string) string { return strings.ToUpper(s) }\n",
    ),
    (
        "b/b.go",
        "package b\n\nimport (\n\t_ \"embed\"\n\t\"os\"\n\n\t\"example.test/hello/a\"\n)\n\n//go:embed words.txt\nvar Words string\n\n\
         func Read(path string) (string, error) {\n\ttext, err := os.ReadFile(path)\n\treturn a.Up(string(text)), err\n}\n",
    ),
    ("b/words.txt", "embedded words\n"),
    (
        "b/b_test.go",
        "package b\n\nimport \"testing\"\n\nfunc TestRead(t *testing.T) {\n\ts, err := Read(\"testdata/x.txt\")\n\
         \tif err != nil || s != \"HELLO\\n\" {\n\t\tt.Fatal(s, err)\n\t}\n}\n",
    ),
    ("b/testdata/x.txt", "hello\n"),
    (
        "c/c.go",
        "package main\n\nimport (\n\t\"fmt\"\n\n\t\"example.test/hello/b\"\n)\n\nfunc main() { fmt.Print(b.Words) }\n",
    ),
    // What a failing command prints is compared too.
    ("broken/d.go", "//go:build broken\n\npackage d\n\nfunc f() int { return \"no number\" }\n"),
];

/// Writes the module with three packages.
pub(crate) fn hello(folder: &Path) {
    for (path, text) in HELLO {
        write(&folder.join(path), text);
    }
}

/// Writes a module of `count` packages that import nothing, each unlike those of another `salt`: built in a moment.
pub(crate) fn tiny(folder: &Path, count: usize, salt: u64) {
    write(&folder.join("go.mod"), "module example.test/tiny\n\ngo 1.24\n");
    for n in 0..count {
        let lines: String =
            (0..40).map(|line| format!("func F{line}(x int) int {{ return x*{n} + {line} + {salt} }}\n")).collect();
        write(&folder.join(format!("p{n}/p.go")), &format!("package p{n}\n\n{lines}"));
    }
}

/// Writes a file that looks old: go does not cache the index of a package with a file younger than two seconds.
fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
}
