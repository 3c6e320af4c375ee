// k6: requests at a steady rate, whether or not those before them were answered. How to run it: bench/README.md.
import http from "k6/http";
import { check } from "k6";

export const options = {
    scenarios: {
        steady: { executor: "constant-arrival-rate", rate: 500, timeUnit: "1s", duration: "10s", preAllocatedVUs: 50 },
    },
    thresholds: { http_req_failed: ["rate==0"], checks: ["rate==1"], http_req_duration: ["p(99)<250"] },
};

export default function () {
    const answer = http.get(`${__ENV.TARGET}/items/7?q=licorne`);
    check(answer, { "the item": (r) => r.status === 200 && r.json("name") === "licorne" });
}
