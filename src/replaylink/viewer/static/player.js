// The player, and what happened in the session beside it.
import { fetchText, isTyping } from './common.js'
import { defuse } from './defuse.js'

const $ = (id) => document.getElementById(id)
const place = $('player')

const clock = (ms) => {
  const seconds = Math.max(Math.floor(ms / 1000), 0)
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60]
  const rest = `${String(minutes).padStart(hours ? 2 : 1, '0')}:${String(seconds % 60).padStart(2, '0')}`
  return hours ? `${hours}:${rest}` : rest
}

class Player {
  #player
  #replayer
  #meta
  #playing = false
  #timeline

  constructor(events, timeline) {
    this.#timeline = timeline
    place.replaceChildren()
    const Component = window.rrwebPlayer.default ?? window.rrwebPlayer.Player ?? window.rrwebPlayer
    this.#player = new Component({
      target: place,
      props: {
        events,
        ...this.#size(),
        autoPlay: false,
        showController: false, // ours has names, and obeys the keyboard
        skipInactive: false,
        mouseTail: false,
        triggerFocus: false, // or the recorded page would take the keys
        showWarning: false,
        UNSAFE_replayCanvas: false,
      },
    })
    this.#replayer = this.#player.getReplayer()
    this.#meta = this.#replayer.getMetaData()
    this.#replayer.iframe.title = 'The recorded page'
    this.#replayer.on('finish', () => this.#set(false))
    new ResizeObserver(() => {
      this.#player.$set(this.#size())
      this.#player.triggerResize()
    }).observe(place)

    $('position').max = this.#meta.totalTime
    $('position').addEventListener('input', () => this.seek(Number($('position').value)))
    $('play').addEventListener('click', () => this.toggle())
    $('speed').addEventListener('change', () => this.#configure())
    $('skip').addEventListener('change', () => this.#configure())
    timeline.addMarks(this.#meta)
    timeline.onChoice = (ms) => this.seek(ms - this.#meta.startTime)
  }

  #size() {
    return { width: place.clientWidth, height: place.clientHeight }
  }

  #configure() {
    this.#replayer.setConfig({ speed: Number($('speed').value), skipInactive: $('skip').checked })
  }

  get offset() {
    return Math.min(Math.max(this.#replayer.getCurrentTime(), 0), this.#meta.totalTime)
  }

  #set(playing) {
    this.#playing = playing
    $('play').textContent = playing ? 'Pause' : 'Play'
    this.#show()
    if (playing) this.#follow()
  }

  #follow = () => {
    if (!this.#playing) return
    this.#show()
    requestAnimationFrame(this.#follow)
  }

  #show() {
    const { offset } = this
    const text = `${clock(offset)} / ${clock(this.#meta.totalTime)}`
    if ($('clock').value !== text) {
      $('clock').value = text
      $('position').setAttribute('aria-valuetext', text)
    }
    $('position').value = offset
    this.#timeline.show(this.#meta.startTime + offset)
  }

  /** Shows the page at an offset in milliseconds from the start; plays on if it was playing. */
  seek(offset) {
    offset = Math.min(Math.max(offset, 0), this.#meta.totalTime)
    if (this.#playing) this.#replayer.play(offset)
    else this.#replayer.pause(offset + 1) // rrweb leaves out what happens at the offset itself
    this.#show()
  }

  seekTo(ms) {
    this.seek(ms - this.#meta.startTime)
  }

  toggle() {
    if (this.#playing) this.#replayer.pause()
    else this.#replayer.play(this.offset >= this.#meta.totalTime ? 0 : this.offset)
    this.#set(!this.#playing)
  }

  play() {
    if (!this.#playing) this.toggle()
  }
}

class Timeline {
  #list = $('timeline')
  #moments = [...this.#list.querySelectorAll('[data-ms]')]
  #times = this.#moments.map((moment) => Number(moment.dataset.ms))
  #current = -2
  onChoice = () => {}

  constructor() {
    this.#list.addEventListener('click', (event) => {
      const moment = event.target.closest('button')?.closest('[data-ms]')
      if (moment) this.onChoice(Number(moment.dataset.ms))
    })
    $('show-events').addEventListener('change', () =>
      this.#list.parentElement.classList.toggle('no-events', !$('show-events').checked),
    )
  }

  /** Marks the errors along the time of the recording. */
  addMarks({ startTime, totalTime }) {
    this.#moments.forEach((moment, i) => {
      const at = (this.#times[i] - startTime) / totalTime
      if (!moment.matches('.error, .severity-error, .severity-fatal') || at < 0 || at > 1) return
      const mark = document.createElement('i')
      mark.style.left = `${at * 100}%`
      $('marks').append(mark)
    })
  }

  /** Marks what happened last before a moment. */
  show(ms) {
    let current = this.#times.findIndex((time) => time > ms)
    current = (current < 0 ? this.#times.length : current) - 1
    if (current === this.#current) return
    this.#current = current
    this.#moments.forEach((moment, i) => {
      moment.classList.toggle('future', i > current)
      moment.classList.toggle('current', i === current)
      if (i === current) moment.setAttribute('aria-current', 'time')
      else moment.removeAttribute('aria-current')
    })
    if ($('follow').checked && current >= 0) {
      const moment = this.#moments[current]
      // Not scrollIntoView(): it would scroll the page around the player too.
      const middle = moment.offsetTop - this.#list.offsetTop - this.#list.clientHeight / 3
      this.#list.scrollTop = middle
    }
  }
}

const timeline = new Timeline()

async function start() {
  let events
  try {
    events = await (await fetchText(place.dataset.events)).json()
  } catch (error) {
    place.querySelector('.loading').textContent = 'The recording could not be loaded.'
    throw error
  }
  events.sort((a, b) => a.timestamp - b.timestamp)
  const player = new Player(defuse(events), timeline)
  const { timestamp } = place.dataset
  player.seekTo(timestamp ? Number(timestamp) : 0)
  place.dataset.ready = ''
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) player.play()

  addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return
    const by = { ArrowLeft: -5000, ArrowRight: 5000 }[event.key]
    if (by && !event.target.closest('#position')) player.seek(player.offset + by)
    else if (event.key === ' ' && !event.target.closest('button, a, input')) player.toggle()
    else return
    event.preventDefault()
  })
}

if (place) start()
