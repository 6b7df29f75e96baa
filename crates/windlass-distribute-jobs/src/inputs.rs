//! Looks after the inputs: the catalogue, the requests, the origin.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use windlass_distribute::input::settle::{Seen, Watched};
use windlass_distribute::input::{Catalogue, Origin, judge};
use windlass_distribute::{FileId, Names};

use crate::changes::Changes;
use crate::keeper::Keeper;
use crate::state::State;

/// Pause between two looks, however often something changes.
const BREATH: Duration = Duration::from_millis(250);

/// Follows the catalogue and the requests.
pub(crate) async fn watch_catalogue(keeper: Arc<Keeper>) {
    let inputs = &keeper.spec.inputs;
    let files = inputs.files();
    let changes = Arc::new(Changes::of(inputs));
    let mut watched = Watched::new(files.clone(), inputs.settle());
    loop {
        let (this, files, folders) = (keeper.clone(), files.clone(), changes.clone());
        let looked = tokio::task::spawn_blocking(move || {
            // Before the look: what changes after it rings.
            let told = folders.watch();
            let wait = look(&this, &files, &mut watched);
            (watched, wait, told)
        });
        let Ok((back, wait, told)) = looked.await else { return };
        watched = back;
        let every = inputs.every(told);
        let pause = wait.map_or(every, |wait| wait.min(every));
        let breath = pause.min(BREATH);
        keeper.clock.sleep(breath).await;
        tokio::select! {
            () = changes.next() => {}
            () = keeper.inputs_changed.notified() => {}
            () = keeper.clock.sleep(pause - breath) => {}
        }
    }
}

/// Looks once. Returns when to look again, if sooner than usual.
fn look(keeper: &Keeper, files: &[PathBuf], watched: &mut Watched) -> Option<Duration> {
    let mut wait = None;
    let mut changed = false;
    if std::mem::take(&mut keeper.state().look_again) {
        *watched = Watched::new(files.to_vec(), keeper.spec.inputs.settle());
    }
    match watched.look(keeper.clock.monotonic()) {
        Seen::Same => {
            let mut state = keeper.state();
            if state.input_fault.take().is_some() {
                changed = true;
            }
        }
        Seen::Settling(rest) => wait = Some(rest.max(Duration::from_millis(10))),
        Seen::Missing(why) => {
            let mut state = keeper.state();
            changed = state.input_fault.as_ref() != Some(&why);
            state.input_fault = Some(why);
        }
        Seen::Ready(sights) => {
            // Read from copies, which are what is kept of an accepted catalogue.
            let copies = keeper.memory().copy_inputs(files);
            let unchanged = watched.was_read(sights);
            match copies {
                Ok(_) if !unchanged => wait = Some(Duration::from_millis(10)),
                Ok(copies) => {
                    changed = true;
                    let verdict = take_catalogue(keeper, &copies);
                    let mut state = keeper.state();
                    match verdict {
                        Ok(()) => (state.input_fault, state.world.catalogue_doubt) = (None, None),
                        Err(why) => state.world.catalogue_doubt = Some(why),
                    }
                }
                Err(why) => {
                    changed = true;
                    keeper.state().input_fault = Some(why);
                }
            }
        }
    }
    changed |= follow_requests(keeper);
    if changed {
        keeper.wake();
    }
    wait
}

fn take_catalogue(keeper: &Keeper, copies: &[PathBuf]) -> Result<(), String> {
    let reading = keeper.spec.reading();
    let mut state = keeper.state();
    state.world.now = keeper.clock.wall().as_second();
    let new = read_catalogue(&mut state, copies, reading)?;
    let last = state.world.catalogue.clone();
    let accept = std::mem::take(&mut state.accept_catalogue);
    if !accept {
        judge(&new, (!last.is_empty()).then_some(&*last)).map_err(|refusal| refusal.to_string())?;
    }
    state.malformed.retain(|(input, _)| *input == "events");
    if copies.len() == 1 {
        state.malformed.push(("catalogue", new.bad_grades.clone()));
    } else {
        state.malformed.push(("grades", new.bad_grades.clone()));
        state.malformed.push(("history", new.bad_history.clone()));
    }
    state.world.set_catalogue(Arc::new(new));
    drop(state);
    keeper.memory().accept_inputs()
}

/// Reads a catalogue.
pub(crate) fn read_catalogue(
    state: &mut State,
    files: &[PathBuf],
    reading: windlass_distribute::input::catalogue::Reading,
) -> Result<Catalogue, String> {
    let open = |path: &PathBuf| {
        let file = std::fs::File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok::<_, String>(std::io::BufReader::with_capacity(1 << 20, file))
    };
    let world = &mut state.world;
    let read = match files {
        [documents] => Catalogue::read_documents(&mut world.names, &world.fleet, open(documents)?),
        [grades, history, ..] => {
            Catalogue::read(&mut world.names, &world.fleet, open(grades)?, open(history)?, reading)
        }
        [] => return Err("no file of a catalogue is named".to_owned()),
    };
    read.map_err(|error| format!("the catalogue cannot be read to its end: {error}"))
}

/// Reads what is new in the event logs, and takes in what was pushed. Returns whether other files rise than before.
fn follow_requests(keeper: &Keeper) -> bool {
    let now = keeper.clock.wall().as_second();
    let mut state = keeper.state();
    let state = &mut *state;
    state.world.now = now;
    let settings = state.world.settings.clone();
    if let Some(mut tail) = state.tail.take() {
        let looked = tail.look(&mut state.hits, &state.requests, now, settings.window_sec, settings.tz_offset);
        state.notes = match looked {
            Ok(look) => look.notes,
            Err(error) => vec![error.to_string()],
        };
        state.malformed.retain(|(input, _)| *input != "events");
        state.malformed.push(("events", tail.malformed.clone()));
        state.tail = Some(tail);
    } else {
        state.hits.forget_before(now - 2 * settings.window_sec);
    }
    let rising = state.hits.rising(now, settings.window_sec, settings.hit_base);
    let before = state.world.rising.clone();
    state.world.set_rising(&rising);
    let which = |rising: &[(FileId, u32)]| rising.iter().map(|(file, _)| *file).collect::<Vec<_>>();
    which(&before) != which(&state.world.rising)
}

/// Lists the folders of the origin now and then.
pub(crate) async fn watch_origin(keeper: Arc<Keeper>) {
    let origin = keeper.spec.inputs.origin.clone();
    let mut known: (Names, Option<Origin>) = (Names::default(), None);
    loop {
        let (this, origin) = (keeper.clone(), origin.clone());
        let listed = tokio::task::spawn_blocking(move || {
            let (mut names, before) = known;
            // With names of its own: nobody waits for a slow mount.
            let found = Origin::read_folders(&mut names, &origin.folders, origin.marker.as_deref(), before.as_ref());
            take_origin(&this, &names, &found);
            // A folder in doubt is compared with what it had when it was not.
            let sound = found.doubts.is_empty() || before.is_none();
            (names, if sound { Some(found) } else { before })
        });
        let Ok(back) = listed.await else { return };
        known = back;
        keeper.clock.sleep(keeper.spec.inputs.origin_every()).await;
    }
}

fn take_origin(keeper: &Keeper, names: &Names, found: &Origin) {
    let mut state = keeper.state();
    let mut origin = Origin::default();
    origin.doubts.clone_from(&found.doubts);
    let all = u32::try_from(names.len()).unwrap_or(u32::MAX);
    for id in (0..all).map(FileId::of) {
        if let (Some(size), Some(folder)) = (found.size(id), found.folder(id))
            && let Some(id) = state.world.names.intern(names.get(id))
        {
            origin.put(id, u64::try_from(size).unwrap_or(0), folder);
        }
    }
    let before = &state.world.origin;
    let changed = !state.origin_read || before.len() != origin.len() || before.doubts != origin.doubts;
    state.origin_read = true;
    state.world.origin = Arc::new(origin);
    drop(state);
    if changed {
        keeper.wake();
    }
}
