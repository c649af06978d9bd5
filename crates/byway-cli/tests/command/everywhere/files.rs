//! What comes from outside decides where packets go only if root or the caller has written it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use byway_lab::seed::Seed;

use crate::support::{Said, byway, call, done, pins};

const DROP: &str = "[[rule]]\nfrom = \"192.168.1.5\"\ntarget = \"drop\"\n";
const NOBODY: u32 = 65_534;

/// Each way in which somebody else could say what this host does.
#[test]
fn a_file_that_others_may_write_is_not_applied() {
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().canonicalize().unwrap();
    let inner = base.join("inner");
    fs::create_dir(&inner).unwrap();
    let (config, list, batch) = (inner.join("byway.toml"), inner.join("list.txt"), inner.join("batch"));
    fs::write(&config, "[[rule]]\nfrom-file = \"list.txt\"\ntarget = \"drop\"\n").unwrap();
    fs::write(&list, "192.168.1.5\n").unwrap();
    fs::write(&batch, "add from 192.168.1.5 drop\n").unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let owner = |path: &Path, owner| chown(path, Some(owner), None).unwrap();
    // What each command says, with short names for the paths.
    let said = |words: &str, path: &Path| -> Said {
        let said = call(&seed.server, &format!("{words} {}", path.display()));
        let short = |text: &str| {
            text.replace(&inner.display().to_string(), "INNER").replace(&base.display().to_string(), "BASE")
        };
        Said { err: short(&said.err), warnings: said.warnings.iter().map(|it| short(it)).collect(), ..said }
    };
    let refused = |sentence: &str| {
        for words in ["apply", "apply --strict", "apply --confirm 60s"] {
            let said = said(words, &config);
            // Of a list, with the place that names it.
            let is_said = sentence.split("; ").all(|part| said.err.contains(part));
            assert!(said.code == Some(2) && said.out.is_empty() && is_said, "{words}: {said:?}");
        }
        for (words, code) in [("diff", 3), ("check --offline", 0)] {
            let said = said(words, &config);
            assert_eq!((said.code, said.err.as_str()), (Some(code), ""), "{words}");
            assert!(said.warnings.contains(&sentence.to_owned()), "{words}: {said:?}");
        }
        assert!(pins().is_empty());
    };
    let accepted = || {
        let said = said("diff", &config);
        assert!(said.warnings.iter().all(|it| !it.contains("belongs to") && !it.contains("may write")));
        done(&seed.server, &format!("apply {}", config.display()));
        done(&seed.server, "flush owner config");
        done(&seed.server, "detach");
        assert!(pins().is_empty());
    };
    accepted();

    for (path, name) in [(&config, "INNER/byway.toml"), (&list, "INNER/list.txt")] {
        owner(path, NOBODY);
        refused(&format!("{name} belongs to user 65534 (mode 0644); give it to root: `chown root {name}`"));
        owner(path, 0);
        for (bits, who) in [(0o664, "a group"), (0o646, "everybody"), (0o666, "everybody")] {
            mode(path, bits);
            refused(&format!(
                "{who} may write to {name} (user 0, mode 0{bits:o}); take that permission away: `chmod go-w {name}`"
            ));
        }
        mode(path, 0o644);
    }
    let of_folder = "keep the file in a folder of root's such as /etc/byway, or send it in: `- < FILE`";
    for (path, name) in [(&inner, "INNER"), (&base, "BASE")] {
        let in_it = format!("{name}, which INNER/byway.toml is in,");
        owner(path, NOBODY);
        mode(path, 0o755);
        refused(&format!("{in_it} belongs to user 65534 (mode 0755); {of_folder}"));
        // The owner of a folder with a sticky bit may replace what is in it.
        mode(path, 0o1755);
        refused(&format!("{in_it} belongs to user 65534 (mode 1755); {of_folder}"));
        owner(path, 0);
        mode(path, 0o775);
        refused(&format!(
            "a group may write to {name} (user 0, mode 0775), which INNER/byway.toml is in; take that permission away: `chmod go-w {name}`"
        ));
        mode(path, 0o1777);
        accepted();
        mode(path, 0o755);
    }
    // By a link as well, whose own folder is safe.
    let (elsewhere, link) = (base.join("elsewhere"), base.join("link.toml"));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("byway.toml"), DROP).unwrap();
    mode(&elsewhere, 0o777);
    symlink("elsewhere/byway.toml", &link).unwrap();
    let by_link = said("apply", &link);
    assert_eq!(by_link.code, Some(2));
    assert!(
        by_link.err.contains(
            "everybody may write to BASE/elsewhere (user 0, mode 0777), which BASE/link.toml is in;"
        ),
        "{by_link:?}"
    );

    // A batch changes things likewise.
    mode(&batch, 0o664);
    let of_batch = said("-b", &batch);
    let sentence = "byway: a group may write to INNER/batch (user 0, mode 0664); take that permission away: `chmod go-w INNER/batch`\n";
    assert_eq!((of_batch.code, of_batch.err.as_str()), (Some(2), sentence));
    assert!(pins().is_empty());

    // What the caller has opened is the caller's choice.
    owner(&config, NOBODY);
    mode(&config, 0o666);
    fs::write(&config, DROP).unwrap();
    let from = |path: &Path, words: &str| -> Said {
        seed.server.output(byway(words).stdin(fs::File::open(path).unwrap())).unwrap().into()
    };
    for path in ["-", "/dev/stdin", "/dev/fd/0"] {
        assert_eq!(from(&config, &format!("apply {path}")).code, Some(0), "{path}");
    }
    assert_eq!(from(&batch, "-b -").code, Some(7));
    assert_eq!(from(&batch, "-b /proc/self/fd/0").code, Some(7));
}
