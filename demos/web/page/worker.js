// The worker: the model runs here, so that the page never waits for it. One job at a time; "stop" ends it between two tiles.

import { Model } from "./model.js";

const SIDE = 128, ROUNDS = 5;  // of the measurement that finds the fastest
let model = null, running = null;

const verbs = {
  async open({ facts, kind, threads, precisions }) {
    model = await Model.open(facts, kind, threads);
    const refused = [];
    for (const variant of facts.variants) if (precisions.includes(variant.precision)) refused.push(await model.load(variant));
    if (refused.every(Boolean)) throw new Error(refused[0]);
    return { times: await model.measure(SIDE, ROUNDS), side: SIDE };
  },

  async run({ id, image, precision, tile }) {
    running = id;
    const start = performance.now();
    const step = async (done, total) => {
      postMessage({ id, done, total });
      if (total > 1) await new Promise((resolve) => setTimeout(resolve));  // lets a "stop" come in
      return running === id;
    };
    const result = await model.run(image, precision, { tile, step });
    return { ...result, stopped: result === null, ms: performance.now() - start };
  },

  stop() {
    running = null;
  },
};

onmessage = async ({ data }) => {
  const { id, verb } = data;
  try {
    const answer = await verbs[verb](data);
    postMessage({ id, answer }, answer?.pixels ? [answer.pixels.buffer] : []);
  } catch (error) {
    postMessage({ id, error: String(error?.message || error) });
  }
};
