// Package blocks answers: what statements does a keepalived.conf consist of?
//
// It is shared by the rooms that read its parts. The package is pure.
package blocks

import (
	"slices"
	"strings"

	"github.com/twotier/twotier/services/internal/importing"
)

// maxDepth is how deep blocks may lie in each other; keepalived needs four.
const maxDepth = 8

// Statement is a line of the language: words, and what stands in braces behind them.
type Statement struct {
	// Line that it begins in.
	Line *importing.Line
	// Words of the statement, at least one but for a block that nothing begins.
	Words []string
	// Children are the statements in its braces.
	Children []*Statement
}

// Word is the nth word, from 0; empty when there is none.
func (s *Statement) Word(n int) string {
	if n < len(s.Words) {
		return s.Words[n]
	}
	return ""
}

// Each calls do for the statement and all that lies in it.
func (s *Statement) Each(do func(*Statement)) {
	do(s)
	for _, child := range s.Children {
		child.Each(do)
	}
}

// Leave says of the statement why nothing of it is taken, and of what lies in it that it goes with it. What was found wrong
// there stands.
func (s *Statement) Leave(format string, args ...any) {
	s.Line.LeftOut(format, args...)
	s.Each(func(inner *Statement) { inner.Line.Withdraw("left out with line %d", s.Line.Number) })
}

// Ignore says of the statement and of all that lies in it that nothing is lost.
func (s *Statement) Ignore(format string, args ...any) {
	s.Each(func(inner *Statement) { inner.Line.Ignored(format, args...) })
}

// Parse takes a text apart (keepalived.conf(5): words, quotes, braces, comments that begin with ! or #).
func Parse(lines []*importing.Line) (top []*Statement) {
	root := &Statement{}
	open := []*Statement{root}
	for _, line := range lines {
		words, comment := split(line.Text)
		show(line, words, comment)
		if len(words) == 0 {
			line.Ignored("empty or a comment")
			continue
		}
		if !slices.ContainsFunc(words, func(w string) bool { return w != "{" && w != "}" }) {
			line.Ignored("it begins or ends a block")
		}
		var pending []string
		flush := func() *Statement {
			if len(pending) == 0 {
				return nil
			}
			s := &Statement{Line: line, Words: pending}
			inner := open[len(open)-1]
			inner.Children = append(inner.Children, s)
			pending = nil
			return s
		}
		for _, word := range words {
			switch word {
			case "{":
				s := flush()
				if within := open[len(open)-1].Children; s == nil && len(within) > 0 {
					s = within[len(within)-1] // the brace stands on a line of its own
				}
				if s == nil || len(open) == maxDepth {
					line.LeftOut("a block that nothing begins, or blocks too deep in each other")
					s = &Statement{Line: line}
				}
				open = append(open, s)
			case "}":
				flush()
				if len(open) == 1 {
					line.LeftOut("a brace that closes nothing")
					continue
				}
				open = open[:len(open)-1]
			default:
				pending = append(pending, word)
			}
		}
		flush()
	}
	return root.Children
}

// split takes a line apart. Braces are words of their own.
func split(text string) (words []string, comment string) {
	for {
		text = strings.TrimLeft(text, " \t\r")
		if text == "" {
			return words, ""
		}
		if text[0] == '!' || text[0] == '#' {
			return words, text
		}
		end := strings.IndexAny(text, " \t\r{}")
		switch {
		case text[0] == '"' || text[0] == '\'':
			// An open quote ends with its line.
			inside, behind, _ := strings.Cut(text[1:], text[:1])
			words, text = append(words, inside), behind
			continue
		case end == 0:
			end = 1
		case end < 0:
			end = len(text)
		}
		words, text = append(words, text[:end]), text[end:]
	}
}

// show hides passwords: what stands behind a word such as auth_pass, words that speak of one, and keys that are not in a
// file (auth_hmac: key ID SECRET).
func show(line *importing.Line, words []string, comment string) {
	shown := slices.Clone(words)
	secret, hidden := false, false
	for i, word := range words {
		lower := strings.ToLower(word)
		key := i > 1 && words[i-2] == "key" && !strings.HasPrefix(word, "file:")
		switch {
		case word == "{" || word == "}":
			secret = false
		case secret, key, strings.Contains(lower, "pass") && strings.ContainsAny(word, " ="):
			shown[i], hidden = "***", true
		case strings.Contains(lower, "pass") && !(i > 0 && words[i-1] == "auth_type"), lower == "password":
			secret = true
		}
	}
	if importing.Secretive(comment) {
		comment, hidden = "# ***", true
	}
	if hidden {
		line.Show(strings.TrimSpace(strings.Join(shown, " ") + " " + comment))
	}
}
