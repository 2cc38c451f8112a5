// The camera: its newest frame goes to the model whenever that is free, so that no frame ever waits in a queue.

import { Failure } from "./runner.js";
import { drawn } from "./pictures.js";

const REASONS = {
  NotAllowedError: "the camera was refused: allow it for this page in the browser's settings",
  NotFoundError: "there is no camera on this machine",
  NotReadableError: "the camera is in use by another program",
  OverconstrainedError: "there is no such camera on this machine",
};

export class Camera {
  // `facing`: user or environment.
  static async open(facing) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Failure(
        window.isSecureContext
          ? "this browser has no camera for pages"
          : "a page sees the camera on https:// or on localhost alone; photos work here all the same",
      );
    }
    try {
      const video = { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: facing };
      return new Camera(await navigator.mediaDevices.getUserMedia({ video, audio: false }));
    } catch (error) {
      throw new Failure(REASONS[error.name] || `the camera cannot be used: ${error.message}`);
    }
  }

  constructor(stream) {
    this.stream = stream;
    this.facing = stream.getVideoTracks()[0].getSettings().facingMode || "user";
    this.video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
    this.canvas = document.createElement("canvas");
    this.frames = 0;
    this.done = false;
  }

  // Frames until it is closed: `each({pixels, width, height})` is awaited, and shows its result; `figures` is told
  // {fps, age_ms, dropped} of the last second's. Rejects where the camera goes away.
  async play(longest, each, figures) {
    await this.video.play();
    this.count();
    const shown = [];
    while (!this.done) {
      const { frames, taken } = await this.newest();
      if (this.done) break;
      const factor = Math.min(1, longest() / Math.max(this.video.videoWidth, this.video.videoHeight));
      const size = [this.video.videoWidth, this.video.videoHeight].map((side) => Math.max(1, Math.round(side * factor)));
      await each(drawn(this.video, ...size, { canvas: this.canvas, mirror: this.facing === "user" }));
      const now = performance.now();
      shown.push({ now, age: now - taken, frames });
      while (shown[0].now < now - 1000 && shown.length > 2) shown.shift();
      const seconds = (now - shown[0].now) / 1000, passed = frames - shown[0].frames;
      if (seconds) figures({ fps: (shown.length - 1) / seconds, age_ms: now - taken, dropped: Math.max(0, passed - shown.length + 1) });
    }
  }

  close() {
    this.done = true;
    for (const track of this.stream.getTracks()) track.stop();
    this.wake?.();
  }

  // Counts what the camera gives, shown or not.
  count() {
    if (!this.video.requestVideoFrameCallback) return;
    const next = () => {
      this.frames += 1;
      this.taken = performance.now();
      this.wake?.();
      if (!this.done) this.video.requestVideoFrameCallback(next);
    };
    this.video.requestVideoFrameCallback(next);
  }

  // Waits for a frame that was not taken yet.
  async newest() {
    if (!this.video.requestVideoFrameCallback) {
      await new Promise((resolve) => requestAnimationFrame(resolve));
      this.frames += 1;
      return { frames: this.frames, taken: performance.now() };
    }
    while (this.frames === this.last && !this.done) {
      const ended = this.stream.getVideoTracks()[0].readyState === "ended";
      if (ended) throw new Failure("the camera went away");
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, 1000);
      });
    }
    this.last = this.frames;
    return { frames: this.frames, taken: this.taken };
  }
}
