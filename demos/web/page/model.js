// The model in its engine: files fetched and checked, a session opened, an image put through it tile by tile.

import { enlargeAlpha, evenedCurve, filledSize, hasAlpha, levels, place, sources, toTensor } from "./images.js";
import { plan } from "./tiling.js";

const PATIENCE_MS = 2000;  // for a measurement

export class Model {
  // `facts` is edgekit-web.json; `kind` wasm or webgpu; `threads` for the processor.
  static async open(facts, kind, threads) {
    const [script, loader, wasm] = facts.engine.kinds[kind].map((path) => new URL(path, import.meta.url).href);
    const ort = await import(script);
    Object.assign(ort.env.wasm, { numThreads: threads, wasmPaths: { mjs: loader, wasm } });
    ort.env.logLevel = "error";
    return new Model(facts, ort, kind);
  }

  constructor(facts, ort, kind) {
    Object.assign(this, { facts, ort, kind, sessions: {} });
    const { scale = 1, border = 0, step = 1, halo } = facts.settings;
    Object.assign(this, { scale, border, step, halo });
  }

  // Fetch a variant, and open it; gives the reason where the engine refuses it.
  async load(variant) {
    const [graph, ...beside] = await Promise.all(variant.files.map(fetched));
    const externalData = beside.map((data, i) => ({ data, path: variant.files[i + 1].path.split("/").pop() }));
    const options = { executionProviders: [this.kind], logSeverityLevel: 3, ...(externalData.length ? { externalData } : {}) };
    try {
      this.sessions[variant.precision] = await this.ort.InferenceSession.create(graph, options);
      return "";
    } catch (error) {
      return `the engine refuses the model in ${variant.precision}: ${error.message}`;
    }
  }

  // Milliseconds of one run on a square of so many pixels, the least of `rounds` after one to warm up, for each session;
  // in turns, so that a disturbance hits all alike. A slow machine has fewer rounds.
  async measure(side, rounds) {
    const begun = performance.now();
    const pixels = new Uint8ClampedArray(4 * side * side).map((_, i) => (i * 7919) % 251);
    const times = {};
    for (let round = 0; round < 2 || (round <= rounds && performance.now() - begun < PATIENCE_MS); round++) {
      for (const precision of Object.keys(this.sessions)) {
        const start = performance.now();
        await this.run({ pixels, width: side, height: side }, precision, { tile: side + 2 * this.border + this.step, least: [1, 1] });
        if (round) times[precision] = Math.min(times[precision] ?? Infinity, performance.now() - start);
      }
    }
    return times;
  }

  // The result of an image {pixels, width, height} (RGBA). `step(done, total)` is awaited after each tile; false stops,
  // and the result is null.
  async run(image, precision, { tile = this.facts.tile, least = this.facts.least, step = () => true } = {}) {
    const height = filledSize(image.height, this.border, least[0], this.step);
    const width = filledSize(image.width, this.border, least[1], this.step);
    const from = {
      pixels: image.pixels, width: image.width,
      rows: sources(image.height, this.border, height), columns: sources(image.width, this.border, width),
    };
    const table = levels(this.facts.input, evenedCurve(image.pixels, this.facts.settings.contrast ?? 1));
    const result = { width: image.width * this.scale, height: image.height * this.scale };
    result.pixels = new Uint8ClampedArray(4 * result.width * result.height);
    const tiles = plan(height, width, Math.ceil(tile / this.step) * this.step, this.halo, this.step);
    for (const [done, part] of tiles.entries()) {
      await this.one(from, part, precision, table, result);
      if ((await step(done + 1, tiles.length)) === false) return null;
    }
    if (hasAlpha(image.pixels)) enlargeAlpha(image, result, this.scale);
    return result;
  }

  async one(from, part, precision, table, result) {
    const { input, output } = this.facts;
    const { data, dims } = toTensor(from, part, input, table);
    const answer = await this.sessions[precision].run({ [input.name]: new this.ort.Tensor(input.dtype, data, dims) });
    const tensor = answer[output.name];
    const wanted = [part.rows, part.columns].map((span) => (span.stop - span.start) * this.scale);
    const made = output.layout === "NCHW" ? tensor.dims.slice(2) : tensor.dims.slice(1, 3);
    if (String(made) !== String(wanted)) throw new Error(`the network made ${made} pixels where ${wanted} were expected`);
    const finite = place(await tensor.getData(), part, output, result, this);
    tensor.dispose();
    if (!finite) throw new Error(`the model gave values beyond numbers in ${precision}`);
  }
}

// A file of the folder, with its size and, where the page may compute one, its SHA-256 checked.
async function fetched({ path, bytes, sha256 }) {
  const answer = await fetch(new URL(path, import.meta.url));
  if (!answer.ok) throw new Error(`${path} cannot be fetched (${answer.status}): is the folder whole?`);
  const data = new Uint8Array(await answer.arrayBuffer());
  if (data.length !== bytes) throw new Error(`${path} has ${data.length} bytes, expected ${bytes}: copy the folder again`);
  if (self.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== sha256) throw new Error(`${path} is not the file that was written (SHA-256 differs): copy the folder again`);
  }
  return data;
}
