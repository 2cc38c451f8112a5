// Tiles: windows of equal size over an image, and the part of each that no border can have touched (sdk/tiling.py).

// Python's and NumPy's rounding: halves go to the even number.
export function roundEven(x) {
  const below = Math.floor(x), rest = x - below;
  if (rest !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

// [{start, stop, keep, end}]: windows [start, stop) that are computed, of which [keep, end) is kept.
export function spans(length, window, halo, step = 1) {
  if (window >= length) return [{ start: 0, stop: length, keep: 0, end: length }];
  const overlap = 2 * halo + (step > 1 ? step : 0);  // rounding may push two starts apart by one step
  if (window <= overlap) throw new RangeError(`tiles of ${window} pixels: with a halo of ${halo} they need more than ${overlap}`);
  const count = Math.ceil((length - overlap) / (window - overlap));
  const starts = Array.from({ length: count }, (_, i) => step * roundEven((i * (length - window)) / (count - 1) / step));
  const cuts = [0];
  for (let i = 1; i < count; i++) cuts.push(Math.floor((starts[i - 1] + window + starts[i]) / 2));
  cuts.push(length);
  return starts.map((start, i) => ({ start, stop: start + window, keep: cuts[i], end: cuts[i + 1] }));
}

// [{rows, columns}] over an image, row by row; one tile where the image has no more pixels than a tile, or halo is null.
export function plan(height, width, tile, halo, step = 1) {
  const whole = halo === null || height * width <= tile * tile;
  const size = whole ? [height, width] : [tile, tile];
  const columns = spans(width, size[1], whole ? 0 : halo, step);
  return spans(height, size[0], whole ? 0 : halo, step).flatMap((rows) => columns.map((column) => ({ rows, columns: column })));
}
