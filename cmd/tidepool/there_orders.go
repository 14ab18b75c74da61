package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// orderTime is for an order that is carried out at once, small files written down included.
const orderTime = time.Minute

// send gives an order, reads the document that answers it into doc, and returns it as it came.
func (t *there) send(ctx context.Context, path string, order, doc any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	status, body, err := t.ask(ctx, http.MethodPost, path, order)
	if err != nil {
		return nil, err
	}
	return t.read(path, status, body, doc)
}

// stream gives an order that takes its time, and hands on the documents that answer it, one on a line, as they come.
func (t *there) stream(ctx context.Context, path string, order any, each func(line []byte) error) error {
	began := time.Now()
	resp, err := t.begin(ctx, http.MethodPost, path, order)
	if err != nil {
		return t.trouble(ctx, path, began, 0, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
		if err != nil {
			return t.trouble(ctx, path, began, 0, err)
		}
		_, err = t.read(path, resp.StatusCode, body, nil)
		return usageIf(resp.StatusCode == http.StatusBadRequest, err)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		var head struct{ Schema int }
		if err := json.Unmarshal(lines.Bytes(), &head); err != nil || head.Schema != thisSchema {
			return t.stranger(path, fmt.Sprintf("a line of the answer is no document of schema %d", thisSchema))
		}
		if err := each(lines.Bytes()); err != nil {
			return t.stranger(path, "a line of the answer is no such document: "+printable(err.Error()))
		}
	}
	if err := lines.Err(); err != nil {
		return t.trouble(ctx, path, began, 0, err)
	}
	return nil
}

// usageIf is err, as one of who was asked wrongly where that is so.
func usageIf(wrong bool, err error) error {
	if wrong {
		return usageError{err}
	}
	return err
}
