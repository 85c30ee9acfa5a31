// Package importing answers: what became of each line of a configuration that is imported?
//
// It is shared by the rooms that read the incumbents' languages. A line that no reader has spoken about is reported as
// unsupported, so that nothing is ever dropped silently. The package is pure.
package importing

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
)

// Limits of what is read in one import, all texts together, and of what is said about one line.
const (
	// MaxBytes is the most bytes.
	MaxBytes = 1 << 20
	// MaxLines is the most lines.
	MaxLines = 20_000
	// MaxShown is the most characters of a line that are shown.
	MaxShown = 200
	// MaxMessage is the most bytes of a message, about.
	MaxMessage = 1000
	// MaxWarnings is the most warnings.
	MaxWarnings = 100
)

// ErrTooLarge is the error of Read for a text that exceeds MaxBytes or MaxLines.
var ErrTooLarge = errors.New("too large to import")

// Report collects what is said of the lines. The zero value is empty.
type Report struct {
	bytes    int
	lines    []*Line
	warnings []string
}

// Line is one line of a text.
type Line struct {
	// Number in its text, from 1.
	Number int
	// Text as it was read, in UTF-8, without its line end.
	Text string

	source   string
	shown    string
	verdict  commonv1.ImportVerdict
	messages []message
	final    bool
}

// message is one thing said of a line.
type message struct {
	verdict commonv1.ImportVerdict
	text    string
}

// Read adds a text. The lines are there to be spoken about; source tells texts apart and may be empty.
func (r *Report) Read(source string, text []byte) ([]*Line, error) {
	if len(text) == 0 {
		return nil, nil
	}
	r.bytes += len(text)
	text = bytes.TrimSuffix(text, []byte("\n"))
	count := bytes.Count(text, []byte("\n")) + 1
	if r.bytes > MaxBytes || len(r.lines)+count > MaxLines {
		return nil, fmt.Errorf("%w: want %d bytes and %d lines at most", ErrTooLarge, MaxBytes, MaxLines)
	}
	var lines []*Line
	for i, raw := range strings.Split(string(text), "\n") {
		raw = strings.ToValidUTF8(strings.TrimSuffix(raw, "\r"), "\uFFFD")
		lines = append(lines, &Line{Number: i + 1, Text: raw, shown: raw, source: source})
	}
	r.lines = append(r.lines, lines...)
	return lines, nil
}

// Warn adds a warning about the whole. Beyond MaxWarnings, and a second time, it adds nothing.
func (r *Report) Warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); len(r.warnings) < MaxWarnings && !slices.Contains(r.warnings, text) {
		r.warnings = append(r.warnings, text)
	}
}

// Show sets what is shown of the line in place of its text: the line without its secrets.
func (l *Line) Show(text string) { l.shown = text }

// Ignored says that the line is left out without harm, and why.
func (l *Line) Ignored(format string, args ...any) {
	l.say(commonv1.ImportVerdict_IMPORT_VERDICT_IGNORED, format, args)
}

// Taken says what the line became.
func (l *Line) Taken(format string, args ...any) {
	l.say(commonv1.ImportVerdict_IMPORT_VERDICT_TAKEN, format, args)
}

// Assumed says what was assumed beyond the words of the line.
func (l *Line) Assumed(format string, args ...any) {
	l.say(commonv1.ImportVerdict_IMPORT_VERDICT_ASSUMED, "assumed: "+format, args)
}

// Unsupported says what of the line is left out although it matters, and what to do instead.
func (l *Line) Unsupported(format string, args ...any) {
	l.say(commonv1.ImportVerdict_IMPORT_VERDICT_UNSUPPORTED, "unsupported: "+format, args)
}

// LeftOut is Unsupported for a line that becomes nothing at all: what was said of it before does not hold any more, and
// nothing that is said later counts.
func (l *Line) LeftOut(format string, args ...any) {
	if l.final {
		return
	}
	l.messages = nil
	l.Unsupported(format, args...)
	l.final = true
}

// Withdraw says that the line becomes nothing because what it belongs to does not, and why. What was found wrong with it
// stands all the same; what it would have become does not.
func (l *Line) Withdraw(format string, args ...any) {
	if l.final {
		return
	}
	l.messages = slices.DeleteFunc(l.messages, func(m message) bool { return m.verdict != commonv1.ImportVerdict_IMPORT_VERDICT_UNSUPPORTED })
	if len(l.messages) == 0 {
		l.Unsupported(format, args...)
	}
	l.final = true
}

func (l *Line) say(verdict commonv1.ImportVerdict, format string, args []any) {
	if l.final {
		return
	}
	l.verdict = max(l.verdict, verdict)
	said := message{verdict, fmt.Sprintf(format, args...)}
	used := 0
	for _, m := range l.messages {
		used += len(m.text)
	}
	if used+len(said.text) > MaxMessage {
		said = message{commonv1.ImportVerdict_IMPORT_VERDICT_UNSUPPORTED, "..."} // the last to be shown
	}
	if !slices.Contains(l.messages, said) {
		l.messages = append(l.messages, said)
	}
}

// message is all that was said, what was taken first.
func (l *Line) message() string {
	sorted := slices.Clone(l.messages)
	slices.SortStableFunc(sorted, func(a, b message) int { return cmp.Compare(a.verdict, b.verdict) })
	var texts []string
	for _, m := range sorted {
		texts = append(texts, m.text)
	}
	return strings.Join(texts, "; ")
}

// Message is the report.
func (r *Report) Message() *commonv1.ImportReport {
	report := &commonv1.ImportReport{Warnings: r.warnings}
	for _, l := range r.lines {
		line := &commonv1.ImportLine{
			Source: l.source, Number: uint32(l.Number), Text: Short(strings.TrimSpace(l.shown), MaxShown),
			Verdict: l.verdict, Message: l.message(),
		}
		if line.Verdict == commonv1.ImportVerdict_IMPORT_VERDICT_UNSPECIFIED {
			line.Verdict = commonv1.ImportVerdict_IMPORT_VERDICT_UNSUPPORTED
			line.Message = "unsupported: this line means nothing to the importer"
		}
		report.Lines = append(report.Lines, line)
	}
	return report
}

// Short is text, or its first characters with dots behind them.
func Short(text string, most int) string {
	if len(text) <= most {
		return text
	}
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:most]) + "..."
}

// Quote is a word of the input as messages show it: quoted, and no longer than a name is.
func Quote(word string) string { return fmt.Sprintf("%q", Short(word, 64)) }

// Secretive tells whether free text, a comment for example, speaks of a secret and had better not be shown.
func Secretive(text string) bool {
	text = strings.ToLower(text)
	for _, word := range []string{"auth", "pass", "secret", "token", "key"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}
