// A clock that the test moves, in the place of the real one, and a way to wait until everybody waits.

export class VirtualClock {
    #now = 0;
    #timers = new Set(); // { due, callback }, in the order in which they were set

    now = () => this.#now;

    after(seconds, callback) {
        if (seconds === Infinity) return () => {};
        const timer = { due: this.#now + Math.max(0, seconds), callback };
        this.#timers.add(timer);
        return () => this.#timers.delete(timer);
    }

    get size() {
        return this.#timers.size;
    }

    /** Forget all timers. */
    clear() {
        this.#timers.clear();
    }

    /** The timer that is due first, at `until` or before. */
    #first(until) {
        let first = null;
        for (const timer of this.#timers) {
            if (timer.due <= until && (first === null || timer.due < first.due)) first = timer;
        }
        return first;
    }

    /** Call those that are due, one after the other, until everybody waits. */
    async run(until = this.#now) {
        for (;;) {
            await settled();
            const timer = this.#first(until);
            if (timer === null) break;
            this.#timers.delete(timer);
            this.#now = Math.max(this.#now, timer.due);
            timer.callback();
        }
        this.#now = until;
    }

    /** So many seconds pass. */
    async advance(seconds) {
        await this.run(this.#now + seconds);
    }
}

/** Every promise that can be settled is. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

/** Everybody waits, and nothing is due at this moment. */
export const settle = (clock) => clock.run();
