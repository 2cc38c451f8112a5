// The runner: asks the worker, opens another where one has died, and finds what is fastest on this machine.

const MOST_THREADS = 4;
const LEAST_TILE = 128;

export class Failure extends Error {}  // in words that a visitor can use
export const OUT_OF_MEMORY = /memory|bad_alloc|allocat|aborted|out of bounds|unreachable/i;

// One worker with its model in one way: kind (wasm, webgpu), threads, and one or several precisions.
class Worked {
  constructor(way) {
    this.way = way;
    this.jobs = new Map();
    this.next = 1;
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.heard(data);
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.close(event.message || "the worker could not be started: is the folder whole?");
    };
  }

  ask(verb, fields = {}, transfer = [], progress = () => {}) {
    if (this.dead) return Promise.reject(new Failure(this.dead));
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.jobs.set(id, { resolve, reject, progress });
      this.worker.postMessage({ id, verb, ...fields }, transfer);
    });
  }

  heard({ id, answer, error, done, total }) {
    const job = this.jobs.get(id);
    if (!job) return;
    if (done) return job.progress(done, total);
    this.jobs.delete(id);
    if (error) job.reject(new Failure(error));
    else job.resolve(answer);
  }

  close(why = "closed") {
    this.dead = why;
    this.worker.terminate();
    for (const job of this.jobs.values()) job.reject(new Failure(why));
    this.jobs.clear();
  }
}

export class Runner {
  constructor(facts) {
    this.facts = facts;
    this.tile = facts.tile;
    this.worked = null;
    this.turn = 0;
    this.last = Promise.resolve();
  }

  // The ways there are here, as [{kind, threads}].
  async ways() {
    const cores = navigator.hardwareConcurrency || 1, found = [{ kind: "wasm", threads: 1 }];
    if (self.crossOriginIsolated && cores > 1) found.push({ kind: "wasm", threads: Math.min(MOST_THREADS, cores) });
    if (this.facts.engine.kinds.webgpu && (await adapter())) found.push({ kind: "webgpu", threads: 1 });
    return found;
  }

  // Open the fastest of the ways, in the fastest of `precisions`, by a measurement; `tell` is given what goes on.
  async open(precisions, tell = () => {}) {
    this.turn += 1;
    this.stop();
    await this.last;
    this.worked?.close();
    let best = null, first = null;
    const measured = [];
    for (const way of await this.ways()) {
      const suited = precisions.filter((precision) => way.kind === "wasm" || !precision.startsWith("int"));
      if (!suited.length) continue;  // graphics processors have no kernels for int8
      tell(best ? "finding out what is fastest here…" : "loading the engine and the model…");
      const worked = new Worked(way);
      try {
        const { times, side } = await worked.ask("open", { facts: this.facts, ...way, precisions: suited });
        for (const [precision, ms] of Object.entries(times)) measured.push({ ...way, precision, ms, side });
      } catch (error) {
        first ??= error;
        worked.close();
        continue;
      }
      const fastest = measured.reduce((one, other) => (other.ms < one.ms ? other : one));
      if (best && fastest.kind === best.way.kind && fastest.threads === best.way.threads) worked.close();
      else {
        best?.close();
        best = worked;
      }
      this.chosen = fastest;
    }
    if (!best) throw first;
    Object.assign(this, { worked: best, measured, precisions });
    return this.chosen;
  }

  // The result of an image {pixels, width, height}: {pixels, width, height, ms}, or null where it was stopped, also by
  // another image that came after it.
  run(image, progress = () => {}) {
    const mine = (this.turn += 1);
    this.stop();
    const begun = this.last.then(() => (mine === this.turn ? this.one(image, progress) : null));
    this.last = begun.catch(() => {});
    return begun;
  }

  // Where memory runs out, smaller tiles are tried in a new worker.
  async one(image, progress) {
    for (;;) {
      try {
        const fields = { image, precision: this.chosen.precision, tile: this.tile };
        const answer = await this.worked.ask("run", fields, [], progress);
        return answer.stopped ? null : answer;
      } catch (error) {
        if (!OUT_OF_MEMORY.test(error.message) || this.facts.settings.halo === null || this.tile / 2 < LEAST_TILE) throw error;
        this.tile /= 2;
        await this.again();
      }
    }
  }

  stop() {
    this.worked?.ask("stop").catch(() => {});  // one that was closed has stopped
  }

  async again() {
    const { way } = this.worked;
    this.worked.close();
    this.worked = new Worked(way);
    await this.worked.ask("open", { facts: this.facts, ...way, precisions: [this.chosen.precision] });
  }
}

// A graphics processor of this machine; one that is imitated in software is slower than WebAssembly.
async function adapter() {
  try {
    const found = await navigator.gpu?.requestAdapter();
    return found && !(found.info?.isFallbackAdapter ?? found.isFallbackAdapter) ? found : null;
  } catch {
    return null;
  }
}
