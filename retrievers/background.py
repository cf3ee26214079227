"""General questions, which need nothing of anybody's history: what a relevance filter compares with."""

from __future__ import annotations

GENERAL_QUESTIONS = tuple(
    line.strip()
    for line in """
What is the capital of Australia?
How many minutes are there in a week?
Convert 45 miles to kilometres.
Who painted the ceiling of the Sistine Chapel?
What is the boiling point of water at sea level?
Explain how a refrigerator works.
What is the square root of 1764?
Write a function that reverses a linked list.
How do I undo the last commit in git?
What does HTTP status 404 mean?
Translate "good morning" into Japanese.
What is the past participle of the verb to swim?
How long should I boil an egg so that it is hard?
What is the difference between weather and climate?
Why is the sky blue?
How far is the moon from the earth?
Which planet has the most moons?
What causes the tides?
When did the Berlin Wall fall?
Who was the first woman to win a Nobel Prize?
List the prime numbers below fifty.
What is compound interest?
How does a bill become a law?
What are the symptoms of a cold?
How much water should an adult drink in a day?
What is the recommended dose of vitamin D?
How do vaccines work?
What is the longest river in Africa?
Which countries border Switzerland?
What time is it in Tokyo when it is noon in London?
How do I change a flat tyre?
How do I remove a coffee stain from a shirt?
What size of screw do I need for a shelf?
How do I reset the password of my account?
Why is my laptop so slow?
What is the difference between a virus and a bacterium?
Summarise the theory of evolution in two sentences.
What is Newton's second law?
Solve 3x + 7 = 22 for x.
What is the derivative of x squared times the sine of x?
Give me a synonym for happy.
Is it "who" or "whom" in this sentence?
Write a polite e-mail that declines an invitation.
Make a shopping list for a week of dinners for two.
How many calories does a banana have?
Can you freeze cooked rice?
What is the best way to sharpen a kitchen knife?
How do I plant tomatoes?
When should roses be pruned?
Which vaccinations does a puppy need?
How do I train a dog to sit?
What is the speed limit on motorways in France?
How do I get from the airport to the city centre?
What documents do I need to renew a passport?
How is income tax calculated?
What is a mortgage?
What is the exchange rate between the euro and the dollar?
How does the stock market work?
What is inflation?
Who wrote Don Quixote?
What is the plot of Hamlet?
How many players are in a football team?
What are the rules of chess?
How long is a marathon?
Who holds the world record in the high jump?
When were the first modern Olympic Games?
What is photosynthesis?
How do bees make honey?
What is the largest mammal?
How old can a tortoise become?
What do pandas eat?
Name three noble gases.
What is the chemical formula of table salt?
How does a nuclear reactor work?
What is the half-life of carbon-14?
Explain recursion to a child.
What is the difference between TCP and UDP?
How do I install Python on Windows?
Sort this list in alphabetical order: pear, apple, fig.
What is a regular expression?
Write a SQL query that counts rows by month.
How do I centre a div?
What is machine learning?
How many bytes are in a gigabyte?
What is the meaning of the word ubiquitous?
Where does the word algebra come from?
How do you say thank you in Swahili?
What is the plural of octopus?
Set a timer for ten minutes.
Remind me to call the dentist tomorrow.
What will the weather be like on Sunday?
Turn off the lights in the kitchen.
Draft a contract for renting a room.
What are my rights if a flight is cancelled?
How do I calculate the area of a circle?
What is the volume of a cylinder with radius 2 and height 5?
What is the probability of rolling two sixes?
Who discovered penicillin?
When did the Second World War end?
What was the Silk Road?
Who built the pyramids?
What language is spoken in Brazil?
What is the population of India?
How high is Mount Everest?
How deep is the Mariana Trench?
What is an earthquake?
How do aeroplanes fly?
What is the difference between alternating and direct current?
How do I read a resistor's colour code?
What does a catalytic converter do?
How often should the oil of a car be changed?
What is the best temperature for washing wool?
How do I get rid of ants?
How do I fold a fitted sheet?
What is a good recipe for pancakes?
How do I make sourdough starter?
What can I use instead of buttermilk?
How many hours of sleep does a child need?
How do I do cardiopulmonary resuscitation?
What is a normal blood pressure?
What should be in a first-aid kit?
How do I meditate?
What is the Pythagorean theorem?
What is the golden ratio?
""".splitlines()
    if line.strip()
)
"""Questions about facts, computing, language, everyday life and errands."""
