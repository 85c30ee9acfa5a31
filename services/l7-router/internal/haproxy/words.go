package haproxy

import (
	"errors"
	"strconv"
	"strings"

	"github.com/twotier/twotier/services/internal/importing"
)

var (
	errQuote    = errors.New("a quote is not closed")
	errVariable = errors.New("an environment variable: write its value in its place")
)

// split takes a line apart as HAProxy does (configuration manual, "Quoting and escaping"): words, quotes, escapes, a comment.
func split(text string) (words []string, comment string, err error) {
	var word strings.Builder
	var quote byte
	inside := false // a word has begun, empty so far perhaps
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == '\'' && c != '\'', quote == '"' && c != '"' && c != '\\' && c != '$':
			word.WriteByte(c)
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\':
			n := unescape(text[i:], &word)
			i += n - 1
			inside = true
		case c == '$' && (quote == '"' || strings.HasPrefix(text[i:], "${")):
			err = errVariable
			word.WriteByte(c)
			inside = true
		case c == '\'' || c == '"':
			quote, inside = c, true
		case c == '#':
			comment = text[i:]
			i = len(text)
		case c == ' ' || c == '\t' || c == '\r':
			if inside {
				words = append(words, word.String())
				word.Reset()
				inside = false
			}
		default:
			word.WriteByte(c)
			inside = true
		}
	}
	if quote != 0 {
		return nil, "", errQuote
	}
	if inside {
		words = append(words, word.String())
	}
	return words, comment, err
}

// unescape writes the character that a backslash begins, and returns how many bytes of text that takes.
func unescape(text string, word *strings.Builder) int {
	if len(text) == 1 {
		word.WriteByte('\\')
		return 1
	}
	switch c := text[1]; c {
	case 'n':
		word.WriteByte('\n')
	case 'r':
		word.WriteByte('\r')
	case 't':
		word.WriteByte('\t')
	case 'x':
		if len(text) >= 4 {
			if n, err := strconv.ParseUint(text[2:4], 16, 7); err == nil {
				word.WriteByte(byte(n))
				return 4
			}
		}
		word.WriteByte(c)
	case ' ', '\t', '#', '\\', '"', '\'', '$':
		word.WriteByte(c)
	default: // a regular expression keeps its backslashes
		word.WriteByte('\\')
		word.WriteByte(c)
	}
	return 2
}

// show hides what is secret in a line.
func show(line *importing.Line, words []string, comment string) {
	hidden := false
	// In lines that make or compare headers and bytes, whatever follows a word that speaks of a secret may be one.
	raw := len(words) > 0 && (strings.HasPrefix(words[0], "http-") || strings.HasPrefix(words[0], "tcp-"))
	for i, word := range words {
		switch before := strings.ToLower(strings.Join(words[max(0, i-2):i], " ")); {
		case before == "stats auth",
			strings.HasSuffix(before, "password"), // password and insecure-password of a userlist
			raw && i > 1 && (importing.Secretive(words[i-1]) || words[i-1] == "***" || before == "tcp-check send"),
			strings.HasPrefix(before, "setenv "), strings.HasPrefix(before, "presetenv "),
			strings.Contains(strings.ToLower(word), "authorization:"):
			words[i], hidden = "***", true
		}
	}
	if importing.Secretive(comment) {
		comment, hidden = "# ***", true
	}
	if hidden {
		line.Show(strings.TrimSpace(strings.Join(words, " ") + " " + comment))
	}
}
