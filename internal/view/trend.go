package view

import "time"

// Sample is the number of taken addresses of a pool at a time.
type Sample struct {
	At    time.Time
	Taken int64
}

const (
	// minTrend is the shortest history with a trend: a rollout of a few minutes says nothing about the next day.
	minTrend = 15 * time.Minute
	// maxTrend is the longest time to full. Beyond it, the history is too short for a number.
	maxTrend = 30 * 24 * time.Hour
)

// TimeToFull returns when a pool has no free address any more, if it goes on like in its history: by the
// line of least squares through the samples, which are in the order of their times. It returns false for a
// history under 15 minutes, for a pool that does not grow, and for more than 30 days.
func TimeToFull(history []Sample, free int64) (time.Duration, bool) {
	if len(history) < 2 || history[len(history)-1].At.Sub(history[0].At) < minTrend {
		return 0, false
	}
	var meanT, meanN float64
	for _, s := range history {
		meanT += s.At.Sub(history[0].At).Seconds()
		meanN += float64(s.Taken)
	}
	n := float64(len(history))
	meanT, meanN = meanT/n, meanN/n
	var covariance, variance float64
	for _, s := range history {
		t := s.At.Sub(history[0].At).Seconds() - meanT
		covariance += t * (float64(s.Taken) - meanN)
		variance += t * t
	}
	if covariance <= 0 || variance == 0 {
		return 0, false
	}
	seconds := float64(free) / (covariance / variance)
	if seconds > maxTrend.Seconds() {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}
