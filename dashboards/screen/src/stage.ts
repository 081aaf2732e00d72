// The stage is drawn for 1920 x 1080 and scaled to fit; a narrow window gets a stacked page instead.

import { computed, onBeforeUnmount, ref } from 'vue'

export const WIDTH = 1920
export const HEIGHT = 1080
const NARROW = 820

export interface Fit {
  scale: number
  left: number
  top: number
}

/** The largest scale at which all of the stage is seen, and where it then stands, centred. */
export function fit(width: number, height: number): Fit {
  const scale = Math.min(width / WIDTH, height / HEIGHT)
  return { scale, left: (width - WIDTH * scale) / 2, top: (height - HEIGHT * scale) / 2 }
}

export function useStage() {
  const size = ref({ width: window.innerWidth, height: window.innerHeight })
  const measure = () => {
    size.value = { width: window.innerWidth, height: window.innerHeight }
  }
  window.addEventListener('resize', measure)
  onBeforeUnmount(() => window.removeEventListener('resize', measure))
  const stacked = computed(() => size.value.width < NARROW)
  const style = computed(() => {
    if (stacked.value) return undefined
    const { scale, left, top } = fit(size.value.width, size.value.height)
    return { transform: `translate(${left}px, ${top}px) scale(${scale})` }
  })
  return { stacked, style }
}
