// Pictures: from a file to pixels and back.

import { hasAlpha } from "./images.js";
import { Failure } from "./runner.js";

export const FITS = 2 ** 24;  // pixels that every browser's canvas can hold

// The picture of a blob: {pixels, width, height, shrunk}, its longer side and its pixels in all limited where they are named.
export async function decoded(blob, { longest = 0, pixels = 0 } = {}) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    const name = blob.name ? `"${blob.name}"` : "what was given";
    throw new Failure(`${name} is no picture that this browser can read: try a JPEG, PNG or WebP file`);
  }
  const side = longest ? longest / Math.max(bitmap.width, bitmap.height) : 1;
  const factor = Math.min(1, side, pixels ? Math.sqrt(pixels / (bitmap.width * bitmap.height)) : 1);
  const [width, height] = [bitmap.width, bitmap.height].map((size) => Math.max(1, Math.floor(size * factor)));
  try {
    const image = drawn(bitmap, width, height);
    if (factor === 1 && hasAlpha(image.pixels)) await straighten(image, blob);
    return { ...image, shrunk: factor < 1 };
  } finally {
    bitmap.close();
  }
}

// A canvas has colours multiplied by alpha, which loses those of what is transparent; a texture has them as the file does.
async function straighten(image, blob) {
  const gl = document.createElement("canvas").getContext("webgl");
  if (!gl) return;
  const bitmap = await createImageBitmap(blob, { premultiplyAlpha: "none" });
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) === gl.FRAMEBUFFER_COMPLETE) {
    const read = new Uint8Array(image.pixels.length);
    gl.readPixels(0, 0, image.width, image.height, gl.RGBA, gl.UNSIGNED_BYTE, read);
    if (!gl.getError()) image.pixels.set(read);
  }
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  bitmap.close();
}

// What a bitmap or a video shows, as pixels of this size; mirrored, as one expects of oneself, where that is asked for.
export function drawn(source, width, height, { canvas = document.createElement("canvas"), mirror = false } = {}) {
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  try {
    pen.imageSmoothingQuality = "high";
    if (mirror) pen.setTransform(-1, 0, 0, 1, width, 0);
    pen.drawImage(source, 0, 0, width, height);
    return { pixels: pen.getImageData(0, 0, width, height).data, width, height };
  } catch {
    throw tooLarge(width, height);
  }
}

// Show an image on a canvas.
export function show(canvas, image) {
  if (canvas.width !== image.width || canvas.height !== image.height) Object.assign(canvas, { width: image.width, height: image.height });
  const { pixels, width, height } = image, pen = canvas.getContext("2d");
  try {
    pen.putImageData(new ImageData(pixels, width, height), 0, 0);
    const last = width * height > FITS ? pen.getImageData(width - 1, height - 1, 1, 1).data[3] : pixels.at(-1);
    if (last !== pixels.at(-1)) throw new RangeError();
  } catch {  // some browsers say so, others show nothing
    throw tooLarge(width, height);
  }
}

// The canvas as a file: JPEG where the photo was one, else PNG.
export async function encoded(canvas, type) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.95));
  if (!blob) throw tooLarge(canvas.width, canvas.height);
  return blob;
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function tooLarge(width, height) {
  return new Failure(`a picture of ${width} × ${height} is more than this browser can hold: choose a smaller size`);
}
