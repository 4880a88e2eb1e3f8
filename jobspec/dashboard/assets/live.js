// The live page: rows come as events, details when they are shown.

const ASK_AGAIN_MS = 2000; // the least time between two requests for the same run
const asked = new Map();

/** A run's details if they are here; the live page asks for them, and again when the row changes. */
function wantDetails(run) {
  const known = store.details.get(run.id);
  if (!store.document.live) return known;
  const last = asked.get(run.id);
  const row = JSON.stringify(run);
  if (last && (last.busy || last.row === row)) return known;
  const wait = last ? Math.max(0, last.at + ASK_AGAIN_MS - Date.now()) : 0;
  if (wait) {
    if (!last.later) last.later = setTimeout(() => { last.later = null; draw(); }, wait);
    return known;
  }
  asked.set(run.id, { row, at: Date.now(), busy: true });
  ask(`run/${run.id}`).then((details) => {
    asked.get(run.id).busy = false;
    if (!details) return;
    store.details.set(run.id, details);
    draw();
  });
  return known;
}

function wantPair(a, b) {
  const key = `${a.id}/${b.id}`;
  store.pairs.set(key, []);
  ask(`pair/${key}`).then((found) => {
    if (!found) return;
    store.pairs.set(key, found);
    draw();
  });
}

async function ask(address) {
  try {
    const answer = await fetch(address);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null; // the stream says that the server does not answer
  }
}

function follow() {
  const source = new EventSource("events");
  source.addEventListener("runs", (event) => {
    const told = JSON.parse(event.data);
    const fresh = new Map([...store.byId, ...told.runs.map((run) => [run.id, run])]);
    const scored = told.runs.filter((run) => run.scores).map((run) => run.id);
    if (scored.length) [...store.pairs.keys()].filter((key) => scored.some((id) => key.includes(id))).forEach((key) => store.pairs.delete(key));
    Object.assign(store.document, { made_at: told.made_at, queue: told.queue, runs: told.ids.map((id) => fresh.get(id)).filter(Boolean) });
    index();
    draw();
  });
  source.onopen = () => { store.lost = false; draw(); };
  source.onerror = () => { store.lost = true; draw(); };
}
