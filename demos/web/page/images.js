// Images as the browser has them, uint8 RGBA, and the tensors that a graph takes and gives (sdk/images.py, sdk/tasks/).

// Which pixel of an image each place of one with a border stands for: the border mirrors (dcb|abcd|cba), what is filled up
// beyond it to `filled` repeats the last.
export function sources(size, border, filled) {
  const found = new Int32Array(filled), last = size + 2 * border - 1;
  for (let i = 0; i < filled; i++) {
    let at = Math.min(i, last) - border;
    if (size === 1) at = 0;
    while (at < 0 || at >= size) at = at < 0 ? -at : 2 * (size - 1) - at;
    found[i] = at;
  }
  return found;
}

// The size that a graph gets: with its border, a multiple of step, and at least `least`.
export function filledSize(size, border, least, step) {
  return Math.ceil(Math.max(size + 2 * border, least) / step) * step;
}

// The tone curve of stylizers (sdk/tasks/stylize.py, `evened`), in float32 as NumPy computes it: 256 values, or null where
// contrast is 1 and nothing changes.
export function evenedCurve(pixels, contrast) {
  if (contrast <= 1) return null;
  const f = Math.fround, counts = new Uint32Array(256);
  for (let i = 0; i < pixels.length; i += 4) {
    counts[(pixels[i] * 9798 + pixels[i + 1] * 19235 + pixels[i + 2] * 3735 + 16384) >> 15] += 1;  // OpenCV's BT.601 luma
  }
  const share = f(256 / (pixels.length / 4));
  const clipped = Float32Array.from(counts, (count) => Math.min(f(count * share), f(contrast)));
  const excess = f(f(256 - pairwiseSum(clipped)) / 256);
  for (let i = 0; i < 256; i++) clipped[i] += excess;
  const curve = new Uint8Array(256);
  let sum = 0;
  for (let i = 0; i < 256; i++) {
    sum = f(sum + clipped[i]);
    curve[i] = Math.min(255, Math.max(0, f(sum - f(0.5 * clipped[i]))));
  }
  return curve;
}

// The sum of 256 float32 in the order in which NumPy adds them: two halves of eight running sums each.
function pairwiseSum(values) {
  const f = Math.fround;
  const half = (from) => {
    const r = values.slice(from, from + 8);
    for (let i = from + 8; i < from + 128; i++) r[i % 8] += values[i];
    return f(f(f(r[0] + r[1]) + f(r[2] + r[3])) + f(f(r[4] + r[5]) + f(r[6] + r[7])));
  };
  return f(half(0) + half(128));
}

// What each byte becomes in the graph's input: after the tone curve, in the range that the manifest names.
export function levels(spec, curve) {
  const [low, high] = spec.range || [0, 1], f = Math.fround, scale = f((high - low) / 255);
  const of = (byte) => (spec.dtype === "uint8" ? byte : f(f(byte * scale) + f(low)));
  const bytes = curve || Uint8Array.from({ length: 256 }, (_, i) => i);
  return spec.dtype === "uint8" ? Uint8Array.from(bytes, of) : Float32Array.from(bytes, of);
}

// The window of a tile as the graph takes it. `from`: {pixels, width, rows, columns}, the last two as `sources` gives them.
export function toTensor(from, tile, spec, table) {
  const height = tile.rows.stop - tile.rows.start, width = tile.columns.stop - tile.columns.start;
  const size = height * width, planar = spec.layout === "NCHW", out = new table.constructor(3 * size);
  const [next, red, green, blue] = planar ? [1, 0, size, 2 * size] : [3, 0, 1, 2];
  let at = 0;
  for (let y = tile.rows.start; y < tile.rows.stop; y++) {
    const row = from.rows[y] * from.width;
    for (let x = tile.columns.start; x < tile.columns.stop; x++, at += next) {
      const pixel = 4 * (row + from.columns[x]);
      out[at + red] = table[from.pixels[pixel]];
      out[at + green] = table[from.pixels[pixel + 1]];
      out[at + blue] = table[from.pixels[pixel + 2]];
    }
  }
  return { data: out, dims: planar ? [1, 3, height, width] : [1, height, width, 3] };
}

// Put what is kept of a tile's result into the large result {pixels, width, height}, `scale` times as large as the image,
// whose `border` is cut off. False where a value is not finite.
export function place(tensor, tile, spec, into, { scale, border }) {
  const width = (tile.columns.stop - tile.columns.start) * scale, size = width * (tile.rows.stop - tile.rows.start) * scale;
  const [low, high] = spec.dtype === "uint8" ? [0, 255] : spec.range || [0, 1];
  const gain = 255 / (high - low), shift = -low * gain;
  const [next, red, green, blue] = spec.layout === "NCHW" ? [1, 0, size, 2 * size] : [3, 0, 1, 2];
  const top = Math.max(0, (tile.rows.keep - border) * scale), bottom = Math.min(into.height, (tile.rows.end - border) * scale);
  const left = Math.max(0, (tile.columns.keep - border) * scale);
  const right = Math.min(into.width, (tile.columns.end - border) * scale);
  let sum = 0;
  for (let y = top; y < bottom; y++) {
    let at = next * ((y + (border - tile.rows.start) * scale) * width + left + (border - tile.columns.start) * scale);
    for (let to = 4 * (y * into.width + left); to < 4 * (y * into.width + right); to += 4, at += next) {
      const r = tensor[at + red], g = tensor[at + green], b = tensor[at + blue];
      sum += r + g + b;
      into.pixels[to] = r * gain + shift;  // a clamped array rounds, halves to even, and saturates
      into.pixels[to + 1] = g * gain + shift;
      into.pixels[to + 2] = b * gain + shift;
      into.pixels[to + 3] = 255;
    }
  }
  return Number.isFinite(sum);
}

// Whether any pixel is not opaque.
export function hasAlpha(pixels) {
  for (let i = 3; i < pixels.length; i += 4) if (pixels[i] !== 255) return true;
  return false;
}

// The image's alpha, enlarged bicubically (Keys 1981, a = −0.75) as OpenCV does it, into the result's.
export function enlargeAlpha(image, result, scale) {
  const columns = taps(image.width, scale), rows = taps(image.height, scale), between = new Float32Array(result.width * image.height);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < result.width; x++) {
      let sum = 0;
      for (let k = 0; k < 4; k++) sum += columns.weights[4 * x + k] * image.pixels[4 * (y * image.width + columns.places[4 * x + k]) + 3];
      between[y * result.width + x] = sum;
    }
  }
  for (let y = 0; y < result.height; y++) {
    for (let x = 0; x < result.width; x++) {
      let sum = 0;
      for (let k = 0; k < 4; k++) sum += rows.weights[4 * y + k] * between[rows.places[4 * y + k] * result.width + x];
      result.pixels[4 * (y * result.width + x) + 3] = sum;
    }
  }
}

function taps(size, scale) {
  const weights = new Float32Array(4 * size * scale), places = new Int32Array(4 * size * scale), a = -0.75;
  for (let i = 0; i < size * scale; i++) {
    const centre = (i + 0.5) / scale - 0.5, first = Math.floor(centre), t = centre - first;
    const w = [((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a, ((a + 2) * t - (a + 3)) * t * t + 1,
      ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1];
    w.push(1 - w[0] - w[1] - w[2]);
    for (let k = 0; k < 4; k++) {
      weights[4 * i + k] = w[k];
      places[4 * i + k] = Math.min(size - 1, Math.max(0, first - 1 + k));
    }
  }
  return { weights, places };
}

// A blend of a photo and its painting, both RGBA of one size: strength 0 is the photo; alpha stays.
export function blended(photo, painting, strength) {
  const out = new Uint8ClampedArray(photo.length);
  for (let i = 0; i < photo.length; i++) out[i] = i % 4 === 3 ? photo[i] : painting[i] * strength + photo[i] * (1 - strength);
  return out;
}
