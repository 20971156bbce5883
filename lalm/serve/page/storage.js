// Conversations kept in this browser (IndexedDB), with their recordings; nothing of them leaves it.

const MOST = 30; // conversations; the oldest go first
const there = new Set(); // keys of recordings that are kept
let opened = null;

function database() {
  opened ||= new Promise((done, fail) => {
    const asked = indexedDB.open("lalm", 1);
    asked.onupgradeneeded = () => {
      asked.result.createObjectStore("conversations", { keyPath: "id" });
      asked.result.createObjectStore("recordings"); // files by the key of their clip
    };
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => fail(asked.error);
  });
  return opened;
}

async function run(store, mode, work) {
  const transaction = (await database()).transaction(store, mode);
  const asked = work(transaction.objectStore(store));
  return new Promise((done, fail) => {
    transaction.oncomplete = () => done(asked.result);
    transaction.onerror = transaction.onabort = () => fail(transaction.error);
  });
}

// The conversation of that id, or undefined; its clips have their files.
export async function get(id) {
  const kept = await run("conversations", "readonly", (store) => store.get(id));
  for (const clip of kept?.clips || []) {
    clip.file = await run("recordings", "readonly", (store) => store.get(clip.key));
    if (clip.file) there.add(clip.key);
  }
  return kept;
}

// All conversations, the newest first, without files.
export async function all() {
  const kept = await run("conversations", "readonly", (store) => store.getAll());
  return kept.sort((a, b) => b.changed - a.changed);
}

// Forget one, and the recordings that no other has.
export async function remove(id) {
  await run("conversations", "readwrite", (store) => store.delete(id));
  const needed = new Set((await all()).flatMap((one) => one.clips.map((clip) => clip.key)));
  for (const key of await run("recordings", "readonly", (store) => store.getAllKeys())) {
    if (needed.has(key)) continue;
    there.delete(key);
    await run("recordings", "readwrite", (store) => store.delete(key));
  }
}

// Keep one, under its `id`; throws an Error that can be shown.
export async function put(kept) {
  try {
    for (const { key, file } of kept.clips) {
      if (!there.has(key)) await run("recordings", "readwrite", (store) => store.put(file, key));
      there.add(key);
    }
    const clips = kept.clips.map((clip) => ({ ...clip, file: null }));
    await run("conversations", "readwrite", (store) => store.put({ ...kept, clips }));
    if ((await run("conversations", "readonly", (store) => store.count())) > MOST) {
      for (const old of (await all()).slice(MOST)) await remove(old.id);
    }
  } catch (error) {
    const full = error?.name === "QuotaExceededError";
    throw new Error(full ? "The browser has no room to keep this conversation." : "The browser keeps no conversations here.");
  }
}
